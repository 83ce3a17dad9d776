"""A few steps of a configuration, to see its health before a real run: on its own data, or on random tokens.

Random tokens ask nothing of a disk and take no tokenizer: gradients pass through the depth of a model at its start
much as they do on text. What they cannot show is learning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steepest.data import Batches, BatchesConfig
from steepest.data.examples import Examples, TrainBatches
from steepest.data.store import TokenStore
from steepest.errors import ConfigError
from steepest.health import HealthConfig, Verdict
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken, Objective
from steepest.optim.config import default_lr
from steepest.train.health_watch import HealthWatch
from steepest.train.kinds import kind_of
from steepest.train.loop import Record, run_loop
from steepest.train.run import Listener, RunConfig, compose, resolve_autocast, sequences_per_step
from steepest.train.state import TrainState

TRIAL_TOKENS = 4096  # a step, where the configuration leaves it open
RANDOM_TOKENS = 200_000


@dataclass(frozen=True)
class Trial:
    """Where a trial ended, and what was seen on the way."""

    config: RunConfig
    state: TrainState
    records: list[Record]  # lines as in metrics.jsonl
    verdicts: list[Verdict]


def try_health(
    given: RunConfig, *, steps: int, every: int, random: bool, cache: Path, listen: Listener
) -> Trial:
    """Train for some steps with a probe every few, and judge. Nothing is written.

    Raises:
        ConfigError: for random tokens with an objective that needs more than tokens.
    """
    if random:
        if given.objective.kind != "next-token":
            raise ConfigError(
                f"random tokens are for next-token prediction; the objective is {given.objective.kind}: leave --random out"
            )
        model = given.model
        examples: Examples = RandomTokens(model.vocab_size)
        build_objective: Callable[[RunConfig, Transformer], Objective] = random_objective
    else:
        kind, given, examples = kind_of(given).prepare(given, cache, listen)
        model = TransformerConfig(**(kind.shape(given) | given.model.model_dump(exclude_unset=True)))
        build_objective = kind.objective
    batch_tokens = given.batches.batch_tokens or max(TRIAL_TOKENS, model.context)
    rate = default_lr(given.optim.optimizer, width=model.width, batch_tokens=batch_tokens)
    config = given.replace(
        model=model,
        batches=given.batches.replace(batch_tokens=batch_tokens),
        optim=given.optim.replace(lr=given.optim.lr or rate),
        train=given.train.replace(time=None, tokens=None, epochs=None, steps=steps, compile=False),
        health=HealthConfig(every=every, rows=given.health.rows),
    )
    state = compose(config, examples, build_objective)
    device = next(state.objective.parameters()).device
    records: list[Record] = []

    def keep(state: TrainState, record: Record) -> None:
        record["seconds"] = 0.0
        records.append(record)
        listen("step", {"record": record, "share": state.step / steps, "left": 0.0})

    rows = config.train.micro_batch or sequences_per_step(config)
    watch = HealthWatch(config, log=records.append, event=_silent, micro_batch=lambda: rows)
    watch.begin(state)
    run_loop(
        state, lr=config.optim.lr or 0.0, clip=config.optim.clip, micro_batch=rows, hooks=[(1, keep), (1, watch)],
        autocast=resolve_autocast(config, device), device=device,
    )  # fmt: skip
    return Trial(config, state, records, watch.verdicts)


class RandomTokens:
    """Examples that are tokens drawn at random; nothing is held out.

    >>> batches = RandomTokens(100).train_batches(BatchesConfig(), context=8, rows=2)
    >>> batches.at(0).ids_BT.shape
    torch.Size([2, 8])
    """

    path = Path("random")
    train_tokens = RANDOM_TOKENS
    held_out_tokens = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def train_batches(self, config: BatchesConfig, *, context: int, rows: int) -> TrainBatches:
        """Windows of the random tokens."""
        tokens = np.random.default_rng(config.seed).integers(self.vocab_size, size=RANDOM_TOKENS + context)
        store = TokenStore(tokens, np.array([0]), n_bytes=len(tokens))
        return Batches(store, context=context, batch=rows, seed=config.seed)

    def held_out_batches(self, config: BatchesConfig, *, context: int, tokens: int | None = None) -> Any:
        """None."""
        return iter(())


def random_objective(config: RunConfig, trunk: Transformer) -> Objective:
    """Next-token prediction without a tokenizer: every token counts as one byte."""
    return NextToken(trunk, np.ones(config.model.vocab_size, dtype=np.int64))


def _silent(*_: Any, **__: Any) -> None:
    """Listen to nothing."""
