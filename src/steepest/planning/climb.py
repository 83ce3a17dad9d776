r"""Train rungs: small runs through the same parts as any run, several lengths of one size from one trunk.

The rate of a run is 1 until its cooldown begins, whatever its length. So rungs of one size share a trunk that trains
at the full rate; where the cooldown of one begins, the state is kept in memory, the branch cools down and is
evaluated, and the state is put back:

    trunk    warm-up ----------------------------------------------------->
    branch            \ D/4      \ D/2                 \ D

With a cooldown of share c, lengths D, D/2 and D/4 cost (1 - c) D + 1.75 c D in all. Every branch has the schedule of a
run of its own length (with one warm-up for all), which is the run's own shape: nothing has to be corrected for it.

Source: A. Hägele et al., https://arxiv.org/abs/2405.18392.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from steepest.data import Corpus
from steepest.errors import TrainingError
from steepest.model import TransformerConfig
from steepest.optim import Decision, OptimConfig, cooldown_share, piecewise
from steepest.planning.rules import default_batch_tokens, default_micro_batch, with_rate
from steepest.planning.rungs import Rung
from steepest.train.evaluate import evaluate
from steepest.train.kinds import Kind
from steepest.train.loop import run_loop
from steepest.train.pace import Event
from steepest.train.run import RunConfig, compose, resolve_autocast, resolve_device
from steepest.train.state import TrainState

PART = 32_768  # held-out tokens that every rung is evaluated on, the same for all
CURVE_POINTS = 4  # of a kept loss curve, in an octave


@dataclass(frozen=True)
class Finished:
    """A rung and what it reached.

    Attributes:
        rung: what was run.
        tokens: exactly trained on, whole steps.
        unique: different tokens there were.
        dropout, batch_tokens, lr: as the rules gave them.
        part: metrics on the part of the held-out text that all rungs are evaluated on.
        whole: metrics on all that the run will be evaluated on; of one large rung only.
        whole_tokens: how many tokens that was.
        seconds: it took, its share of a trunk included.
        seconds_per_token: of its training steps.
        curve: (tokens, mean training loss since the last) along the way.
    """

    rung: Rung
    tokens: int
    unique: int
    dropout: float
    batch_tokens: int
    lr: float
    part: dict[str, float]
    whole: dict[str, float]
    whole_tokens: int
    seconds: float
    seconds_per_token: float
    curve: tuple[tuple[int, float], ...]

    @property
    def loss(self) -> float:
        """Nats per token on the part."""
        return self.part["loss"]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.__dict__, "rung": self.rung.record(), "curve": [list(pair) for pair in self.curve]}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Finished":
        """From JSON."""
        curve = tuple((int(tokens), float(loss)) for tokens, loss in record["curve"])
        return cls(**{**record, "rung": Rung(**record["rung"]), "curve": curve})


class Branch:
    """The schedule of a trunk up to where a branch leaves it, then of the branch: a pure function of the step.

    >>> branch = Branch(OptimConfig(warmup=0, cooldown=0.5), total=4, warmup=1)
    >>> branch.leaves, [branch.factor(step) for step in range(4)]
    (2, [0.5, 1.0, 1.0, 0.5])
    """

    def __init__(self, config: OptimConfig, total: int, warmup: int) -> None:
        cooldown = min(round(cooldown_share(config) * total), total - warmup)
        self.leaves = total - cooldown  # steps made on the trunk
        final = 1.0 if config.schedule == "constant" else config.final_lr
        self._decisions = [Decision(0, 1 / (warmup + 1), warmup)]
        if cooldown:
            shape: Any = "cosine" if config.schedule == "cosine" else "linear"
            self._decisions.append(Decision(self.leaves, 1.0, cooldown, final, shape, ends=True))
        self.end = self._total = total

    @property
    def total_steps(self) -> int:
        """Steps of the branch, those on the trunk included."""
        return self._total

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        return piecewise(step, self._decisions)

    def done(self, step: int) -> bool:
        """Whether the stretch at hand (``end``) is over."""
        return step >= self.end

    def observe(self, step: int, seconds: float) -> None:
        """The clock does not matter."""

    def take_events(self) -> list[Event]:
        """None."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the length."""
        return {"kind": "branch", "total_steps": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def rung_config(given: RunConfig, rung: Rung, fixed: dict[str, Any]) -> RunConfig:
    """The run that a rung is: the same recipe, by the same rules, at the rung's own size and length.

    Args:
        given: what the user set; threads, dtype and device resolved.
        fixed: what data and user fix of the trunk, but for its shape.
    """
    inherited = {key: value for key, value in fixed.items() if key not in SHAPE}
    model = TransformerConfig(**{**inherited, "depth": rung.depth, "width": rung.width})
    batch = given.batches.batch_tokens or default_batch_tokens(model.context, rung.tokens)
    optim = with_rate(given.optim, width=model.width, batch_tokens=batch, multiplier=rung.multiplier)
    device = resolve_device(given.train.device)
    train = given.train.replace(
        time=None, steps=max(1, round(rung.tokens / batch)), seed=given.train.seed + rung.seed, compile=False,
        micro_batch=given.train.micro_batch or default_micro_batch(batch, model.context, device),
    )  # fmt: skip
    batches = given.batches.replace(batch_tokens=batch, seed=given.batches.seed + rung.seed)
    return given.replace(model=model, batches=batches, optim=optim, train=train)


SHAPE = ("depth", "width", "head_dim", "heads", "kv_heads", "mlp_width")  # follows a rung's own size


def climb(
    rungs: Sequence[Rung],
    given: RunConfig,
    fixed: dict[str, Any],
    corpus: Corpus,
    kind: Kind,
    *,
    whole: int = 0,
    top: Rung | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Finished]:
    """Train rungs in order; each is given back as soon as it is finished. Ends early when interrupted.

    Args:
        given, fixed: see `rung_config`.
        whole, top: a rung, and the held-out tokens that it is evaluated on besides the part for all.
    """
    for _, group in groupby(rungs, key=lambda rung: trunk_of(rung, given, fixed)):
        branches = sorted(group, key=lambda rung: rung.tokens)
        tokens = {rung: whole if rung == top else 0 for rung in branches}
        with torch.random.fork_rng():
            torch.manual_seed(branches[0].seed)
            yield from _climb_trunk(branches, given, fixed, corpus, kind, tokens, interrupted)


def trunk_of(rung: Rung, given: RunConfig, fixed: dict[str, Any]) -> tuple[Any, ...]:
    """Rungs with the same have one trunk."""
    return (*rung.family, rung_config(given, rung, fixed).batches.batch_tokens)


def _climb_trunk(
    branches: list[Rung],
    given: RunConfig,
    fixed: dict[str, Any],
    corpus: Corpus,
    kind: Kind,
    whole: Mapping[Rung, int],
    interrupted: Callable[[], bool],
) -> Iterator[Finished]:
    config = rung_config(given, branches[-1], fixed)
    device, curve = resolve_device(config.train.device), list[tuple[int, float]]()
    began, spent, made = time.monotonic(), 0.0, 0
    state = compose(config, corpus, kind.objective)
    totals = [rung_config(given, rung, fixed).train.steps or 1 for rung in branches]
    least = min(Branch(config.optim, total, warmup=0).leaves for total in totals)
    warmup = max(0, min(round(config.optim.warmup * totals[-1]), least))

    def train() -> bool:
        nonlocal spent, made
        since, before = time.monotonic(), state.tokens
        try:
            finished = run_loop(
                state, lr=config.optim.lr or 0.0, clip=config.optim.clip, micro_batch=config.train.micro_batch or 1,
                autocast=resolve_autocast(config, device), device=device, interrupted=interrupted,
                hooks=[(1, lambda state, record: curve.append((state.tokens, record["loss"])))],
            )  # fmt: skip
        except TrainingError:  # it diverged, so it tells nothing; the others may
            finished = False
        spent, made = spent + time.monotonic() - since, made + state.tokens - before
        return finished

    for rung, total in zip(branches, totals, strict=True):
        branch = Branch(config.optim, total, warmup)
        state.schedule, branch.end = branch, branch.leaves
        if not train():
            return
        kept = None if rung is branches[-1] else (_copied(state), len(curve))
        branch.end = total
        if not train():
            return
        measured = _measure(state, corpus, config, whole[rung])
        yield Finished(
            rung=rung, tokens=state.tokens, unique=corpus.train_tokens, dropout=config.model.dropout,
            batch_tokens=config.batches.batch_tokens or 0, lr=config.optim.lr or 0.0, part=measured[0],
            whole=measured[1], whole_tokens=whole[rung],
            seconds=round(time.monotonic() - began, 3), seconds_per_token=spent / max(made, 1), curve=tuple(thinned(curve)),
        )  # fmt: skip
        began = time.monotonic()
        if kept is not None:
            (tensors, record), length = kept
            state.restore(tensors, record)
            del curve[length:]


def _copied(state: TrainState) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    tensors = {
        file: {name: tensor.clone() for name, tensor in part.items()}
        for file, part in state.tensors().items()
    }
    return tensors, state.record()


def _measure(
    state: TrainState, corpus: Corpus, config: RunConfig, whole: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on the part of the held-out text, and on ``whole`` tokens of it."""

    def metrics(tokens: int) -> dict[str, float]:
        batches = corpus.held_out_batches(config.batches, context=config.model.context, tokens=tokens)
        return evaluate(state.objective, batches)

    first = metrics(PART)
    if not whole or min(whole, corpus.held_out_tokens) <= PART:
        return first, first if whole else {}
    return first, metrics(whole)


def thinned(curve: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """A loss curve at a few points in an octave, each the mean since the last.

    >>> thinned([(tokens, float(tokens)) for tokens in range(1, 9)])[-1]
    (8, 8.0)
    """
    points: list[tuple[int, float]] = []
    losses: list[float] = []
    rows = list(curve)
    grid = 2.0 ** (-1 / CURVE_POINTS)
    edges, edge = set[int](), float(len(rows))
    while edge >= 1:
        edges.add(round(edge))
        edge = min(edge * grid, edge - 1)
    for count, (tokens, loss) in enumerate(rows, start=1):
        losses.append(loss)
        if count in edges:
            points.append((tokens, sum(losses) / len(losses)))
            losses = []
    return points
