"""How a run's batch is split to fit its memory: predicted before it starts, checked against the process after.

    limit >= before + held by the step,     before = the process now + checkpoint copies + the corpus's pages

``fit`` resolves ``train.micro_batch`` and ``train.recompute_blocks`` of a config; see ``memory/choose.py``.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steepest.errors import ConfigError
from steepest.memory.choose import CUDA, KEPT, RETURNED, SHOWN, Choice, Holding, Split, choose_split, halvings
from steepest.memory.measure import free, resident, return_pages
from steepest.memory.predict import Prediction
from steepest.model.transformer import Block, Transformer
from steepest.train.footprint import Subject, predict_training
from steepest.train.run import RunConfig, resolve_autocast, resolve_device, sequences_per_step

FREE_SHARE = 0.9  # of what is free, by default
TIMED = 3  # times a block is timed


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
            "considered": [
                {
                    "micro_batch": one.micro_batch,
                    "recompute_blocks": one.recompute_blocks,
                    "allocator": one.holding.name,
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

    Args:
        preferred: the micro-batch that is best where memory does not matter.
        subject: whose memory it is; next-token prediction if ``None``.
        corpus_bytes: of the encoded text, whose pages count as the process's own.
        holdings: instead of what the device offers.
        before: bytes beside the step; measured now if ``None``.
    """
    train, device = config.train, resolve_device(config.train.device)
    sequences = sequences_per_step(config)
    preferred = min(preferred, sequences)
    here = resident(device)
    limit = train.memory or here + int(FREE_SHARE * free(device))
    allowed = [train.micro_batch] if train.micro_batch else halvings(sequences)
    known: dict[tuple[int, int], Prediction] = {}

    def predict(micro: int, k: int) -> Prediction:
        if (micro, k) not in known:
            known[micro, k] = predict_training(config, subject, micro_batch=micro, recompute_blocks=k)
        return known[micro, k]

    recompute = _recompute(config)
    first = predict(min(allowed[0], train.micro_batch or preferred), recompute[0])
    state = first.worst.weights + first.worst.optimiser
    if before is None:
        # A checkpoint is copied and then written beside training.
        before = here + corpus_bytes + (state if device.type == "cpu" else 0)
    if holdings is None:
        holdings = [CUDA] if device.type == "cuda" else [KEPT]
        if device.type == "cpu" and train.memory:
            holdings = [KEPT, RETURNED]
    if train.memory is None:
        micro = train.micro_batch or preferred
        split = Split(micro, recompute[0], holdings[0], first.peak, before + holdings[0].bytes(first), 0.0)
        if split.taken <= limit:
            return _settled(config, split), Fit(limit, False, before, Choice(split, [split]))

    def otherwise() -> str:
        if config.model.coupling == "reversible":
            return ""
        reversible = config.replace(
            model=config.model.replace(coupling="reversible"),
            train=train.replace(backward=None, recompute_blocks=None),
        )
        needed = (
            min(holding.bytes(predict_training(reversible, subject, micro_batch=1)) for holding in holdings)
            + before
        )
        return f', or "--set model.coupling=reversible", another function, which needs {needed / 1e6:,.0f} MB'

    choice = choose_split(
        sequences=sequences, depth=config.model.depth, limit=limit, predict=predict,
        time_block=lambda micro: time_block(config, micro), holdings=holdings, before=before,
        micro_batches=allowed, recompute=recompute, otherwise=otherwise,
    )  # fmt: skip
    return _settled(config, choice.split), Fit(limit, train.memory is not None, before, choice)


def hold_as(name: str) -> None:
    """Put the process in the state that a way of holding, named so, assumes."""
    if name == RETURNED.name and not return_pages():
        raise ConfigError("this C library cannot return freed pages: give more memory")


def shown(fit: Fit) -> list[Split]:
    """The choice and a few that come next, first those that fit."""
    ranked = sorted(fit.choice.considered, key=lambda one: (one.taken > fit.limit, one.seconds))
    return ranked[:SHOWN]


def time_block(config: RunConfig, micro_batch: int) -> tuple[float, float]:
    """Seconds of one block's forward, and of its forward and backward, here and now."""
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
    return statistics.median(forward[1:]), statistics.median(both[1:])


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
    train = config.train.replace(micro_batch=split.micro_batch)
    if config.model.coupling == "residual":
        train = train.replace(
            backward="recompute" if split.recompute_blocks else "store",
            recompute_blocks=split.recompute_blocks or None,
        )
    return config.replace(train=train)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
