"""How a run's batch is split to fit its memory: predicted before it starts, checked against the process after.

    limit >= before + held by the step,     before = the process now + checkpoint copies + the corpus's pages

``fit`` resolves ``train.micro_batch`` and ``train.recompute_blocks`` of a config; see ``memory/choose.py``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from steepest.errors import ConfigError
from steepest.memory.choose import (
    CUDA,
    KEPT,
    RETURNED,
    SHOWN,
    Choice,
    Holding,
    NothingFits,
    Split,
    choose_split,
    halvings,
)
from steepest.memory.measure import context_bytes, free, peak, resident, return_pages
from steepest.memory.predict import Observation, Prediction
from steepest.model.transformer import Block, Transformer
from steepest.train.footprint import Subject, has_own_gradient, predict_training
from steepest.train.run import RunConfig, resolve_autocast, resolve_device, sequences_per_step

FREE_SHARE = 0.9  # of what is free, by default
TIMED = 5  # times a block is timed
FAR_BELOW = 16  # times what steps like the run's have taken: within the limit, nothing needs to be predicted


@dataclass(frozen=True)
class Fit:
    """What was decided about a run's memory.

    Attributes:
        limit: bytes the process may take.
        asked: whether the user named the limit.
        before: bytes beside the step.
        choice: the split and what it was compared with.
    """

    limit: int
    asked: bool
    before: int
    choice: Choice

    def record(self) -> dict[str, Any]:
        """As JSON, for plan.json."""
        split = self.choice.split
        return {
            "limit": self.limit,
            "asked": self.asked,
            "before": self.before,
            "predicted_live": split.peak,
            "predicted": split.taken,
            "allocator": split.holding.name,
            "micro_batch": split.micro_batch,
            "recompute_blocks": split.recompute_blocks,
            "step_in_backward": split.in_backward,
            "considered": [
                {
                    "micro_batch": one.micro_batch,
                    "recompute_blocks": one.recompute_blocks,
                    "allocator": one.holding.name,
                    "step_in_backward": one.in_backward,
                    "predicted": one.taken,
                    "step_seconds": one.seconds,
                    "reason": one.reason(self.limit, split),
                }
                for one in shown(self)
            ],
        }


def fit(
    config: RunConfig,
    *,
    preferred: int,
    subject: Subject | None = None,
    corpus_bytes: int = 0,
    holdings: Sequence[Holding] | None = None,
    before: int | None = None,
) -> tuple[RunConfig, Fit]:
    """Resolve the split of a run whose model and batch are resolved; the config that comes back names it.

    Without ``train.memory`` the limit is 90% of what is free, and the preferred micro-batch is taken if it fits.
    With it the choice is confirmed by a prediction at the whole depth.

    Args:
        preferred: the micro-batch that is best where memory does not matter.
        subject: whose memory it is; next-token prediction if ``None``.
        corpus_bytes: of the encoded text, whose pages count as the process's own.
        holdings: instead of what the device offers.
        before: bytes beside the step; measured now if ``None``.

    Raises:
        ConfigError: nothing fits; says the smallest amount that would do, and what else could be changed.
    """
    train, device = config.train, resolve_device(config.train.device)
    sequences = sequences_per_step(config)
    held = sequences if train.step_in_backward else min(train.micro_batch or preferred, sequences)
    if train.step_in_backward and (train.micro_batch or sequences) < sequences:
        raise ConfigError(
            f"train.step_in_backward needs all {sequences} sequences of a step at once; got train.micro_batch "
            f"{train.micro_batch}: leave one of the two out"
        )
    if train.step_in_backward and has_own_gradient(config, subject):
        raise ConfigError(
            f"train.step_in_backward is not for objective {config.objective.kind}, whose gradient takes several "
            "backward passes: leave it out"
        )
    limit = train.memory or resident(device) + context_bytes(device) + int(FREE_SHARE * free(device))
    holdings = holdings or _holdings(config)
    least = _recompute(config)[0]
    predict = _predictor(config, subject)
    first = predict(held, least)
    if before is None:
        before = _beside(config, first) + corpus_bytes
    if train.memory is None:
        split = Split(held, least, holdings[0], first.peak, before + holdings[0].bytes(first), 0.0,
                      bool(train.step_in_backward))  # fmt: skip
        if split.taken <= limit:
            return _settled(config, split), Fit(limit, False, before, Choice(split, [split]))
    ways = [(config, predict)]  # in order of cost
    at_once = (train.micro_batch or sequences) >= sequences
    if (
        train.step_in_backward is None
        and not config.optim.clip
        and at_once
        and not has_own_gradient(config, subject)
    ):
        early = config.replace(train=train.replace(step_in_backward=True))
        ways.append((early, _predictor(early, subject)))
    refusals = []
    for way, predict in ways:
        try:
            choice = _choose(way, subject, predict, limit, holdings, before)
        except NothingFits as refusal:
            refusals.append(refusal)
        else:
            return _settled(config, choice.split), Fit(limit, train.memory is not None, before, choice)
    mildest = min(refusals, key=lambda refusal: refusal.needed)
    raise ConfigError(f"{mildest}{_otherwise(config, subject, holdings, before, mildest.needed)}")


def unpredicted(config: RunConfig, *, preferred: int) -> tuple[RunConfig, dict[str, Any]] | None:
    """The preferred split, where steps like the run's own have been timed and left the memory all but untouched.

    A prediction takes seconds, which a run of a minute or two has better uses for. None on a GPU, where what the
    process has taken is not what the limit is about, and where the split was asked for.
    """
    train, device = config.train, resolve_device(config.train.device)
    limit = resident(device) + int(FREE_SHARE * free(device))
    if (
        device.type != "cpu"
        or FAR_BELOW * peak(device) > limit
        or _recompute(config)[0]
        or train.step_in_backward
    ):
        return None
    micro = min(train.micro_batch or preferred, sequences_per_step(config))
    split = Split(micro, 0, KEPT, 0, 0, 0.0)
    return _settled(config, split), {
        "limit": limit,
        "asked": False,
        "timed": peak(device),
        "micro_batch": micro,
    }


def unsplit(config: RunConfig) -> RunConfig:
    """The config with its split left open again."""
    open_train = {"micro_batch": None, "backward": None, "recompute_blocks": None, "step_in_backward": None}
    return config.replace(train=config.train.replace(**open_train))


def process_bytes(config: RunConfig, prediction: Prediction) -> dict[str, int]:
    """What a process would take for a predicted step, by the way it holds memory; without the pages of a corpus."""
    before = _beside(config, prediction)
    ways = [CUDA] if resolve_device(config.train.device).type == "cuda" else [KEPT, RETURNED]
    return {holding.name: before + holding.bytes(prediction) for holding in ways}


def hold_as(name: str) -> None:
    """Put the process in the state that a way of holding, named so, assumes."""
    if name == RETURNED.name and not return_pages():
        raise ConfigError("this C library cannot return freed pages: give more memory")


def _choose(
    config: RunConfig,
    subject: Subject | None,
    predict: Callable[[int, int], Prediction],
    limit: int,
    holdings: Sequence[Holding],
    before: int,
) -> Choice:
    """The fastest split that fits, confirmed at the whole depth where a limit was asked for."""
    train, sequences = config.train, sequences_per_step(config)
    early = bool(train.step_in_backward)
    allowed = (
        [sequences]
        if early
        else [min(train.micro_batch, sequences)]
        if train.micro_batch
        else halvings(sequences)
    )

    def choose(predict: Callable[[int, int], Prediction]) -> Choice:
        return choose_split(
            sequences=sequences, depth=config.model.depth, limit=limit, predict=predict,
            time_block=lambda micro: time_block(config, micro), holdings=holdings, before=before,
            micro_batches=allowed, recompute=_recompute(config), in_backward=early,
        )  # fmt: skip

    found = choose(predict)
    if train.memory is not None:
        exact = _predictor(config, subject, whole=True)
        if exact(found.split.micro_batch, found.split.recompute_blocks).peak > found.split.peak:
            return choose(exact)  # blocks that are not alike: slow, and right
    return found


def _predictor(
    config: RunConfig, subject: Subject | None, *, whole: bool = False
) -> Callable[[int, int], Prediction]:
    """Micro-batch and recomputed blocks to what a step takes; shallow stacks are run once for all of them."""
    known: dict[tuple[int, ...], Observation] = {}

    @cache
    def predict(micro: int, k: int) -> Prediction:
        return predict_training(
            config, subject, micro_batch=micro, recompute_blocks=k, whole=whole, known=known
        )

    return predict


def _holdings(config: RunConfig) -> list[Holding]:
    """Ways to hold memory that the device offers; page faults only where a limit was asked for."""
    if resolve_device(config.train.device).type == "cuda":
        return [CUDA]
    return [KEPT] if config.train.memory is None else [KEPT, RETURNED]


def _beside(config: RunConfig, prediction: Prediction) -> int:
    """Bytes beside a step: the process as it is, and on a CPU the copy of which a checkpoint is written."""
    device = resolve_device(config.train.device)
    state = prediction.worst.weights + prediction.worst.optimiser
    return resident(device) + context_bytes(device) + (state if device.type == "cpu" else 0)


def _otherwise(
    config: RunConfig, subject: Subject | None, holdings: Sequence[Holding], before: int, needed: int
) -> str:
    """What the user could change, with what it would then need."""

    def process(config: RunConfig, micro: int, k: int) -> int:
        prediction = _predictor(config, subject)(micro, k)
        return before + min(holding.bytes(prediction) for holding in holdings)

    told = ""
    if config.optim.clip and not has_own_gradient(config, subject):
        unclipped = unsplit(config).replace(optim=config.optim.replace(clip=0.0))
        unclipped = unclipped.replace(train=unclipped.train.replace(step_in_backward=True))
        bytes_ = process(unclipped, sequences_per_step(config), _recompute(unclipped)[1])
        if bytes_ < needed:
            told += (
                f', or "--set optim.clip=0", weights updated within the backward pass: {bytes_ / 1e6:,.0f} MB'
            )
    if config.model.coupling != "reversible":
        reversible = unsplit(config).replace(model=config.model.replace(coupling="reversible"))
        told += (
            ', or "--set model.coupling=reversible", another function, which needs '
            f"{process(reversible, 1, 0) / 1e6:,.0f} MB"
        )
    return told


def shown(fit: Fit) -> list[Split]:
    """The choice and a few that come next, first those that fit."""
    ranked = sorted(fit.choice.considered, key=lambda one: (one.taken > fit.limit, one.seconds))
    return ranked[:SHOWN]


def time_block(config: RunConfig, micro_batch: int) -> tuple[float, float]:
    """Seconds of one block's forward, and of its forward and backward, here and now; none where there are no blocks."""
    if config.model.depth == 0:
        return 0.0, 0.0
    device = resolve_device(config.train.device)
    autocast = resolve_autocast(config, device)
    model = config.model.replace(**{**config.model.model_dump(), "depth": 1, "vocab_size": 2})
    trunk = Transformer(model, torch.Generator().manual_seed(0)).to(device)
    block = trunk.blocks[0]
    assert isinstance(block, Block)
    rotation = trunk.rotation(
        torch.arange(model.context, device=device), torch.float32 if autocast is None else autocast
    )
    x_BTD = torch.randn(micro_batch, model.context, model.width, device=device, requires_grad=True)
    forward, both = [], []
    for _ in range(TIMED + 1):
        began = _now(device)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            y_BTD = block(x_BTD, rotation)
        middle = _now(device)
        y_BTD.backward(torch.ones_like(y_BTD))
        forward.append(middle - began)
        both.append(_now(device) - began)
    return min(forward[1:]), min(both[1:])  # what else the machine does only adds


def _recompute(config: RunConfig) -> tuple[int, int]:
    """The fewest and the most blocks that may be recomputed."""
    train = config.train
    if train.recompute_blocks is not None:
        return train.recompute_blocks, train.recompute_blocks
    if config.model.coupling == "reversible" or train.backward in ("store", "invert"):
        return 0, 0
    return (
        (config.model.depth, config.model.depth) if train.backward == "recompute" else (0, config.model.depth)
    )


def _settled(config: RunConfig, split: Split) -> RunConfig:
    train = config.train.replace(
        micro_batch=split.micro_batch, step_in_backward=split.in_backward or config.train.step_in_backward
    )
    if config.model.coupling == "residual":
        train = train.replace(
            backward="recompute" if split.recompute_blocks else "store",
            recompute_blocks=split.recompute_blocks or None,
        )
    config = config.replace(train=train)
    if split.in_backward:  # a probe of the gradient flow would hold all gradients at once
        config = config.replace(health=config.health.replace(every=0))
    return config


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
