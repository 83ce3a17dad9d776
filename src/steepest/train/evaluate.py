"""Held-out evaluation: every held-out batch measured once, the metrics made of all of them together."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from steepest.data.examples import AnyBatch
from steepest.objectives import Objective


def evaluate(
    objective: Objective,
    batches: Iterable[AnyBatch],
    *,
    autocast: torch.dtype | None = None,
    rows: int | None = None,
) -> dict[str, float]:
    """Metrics of an objective over batches, see ``measure_all``."""
    return objective.metrics(measure_all(objective, batches, autocast=autocast, rows=rows))


def measure_all(
    objective: Objective,
    batches: Iterable[AnyBatch],
    *,
    autocast: torch.dtype | None = None,
    rows: int | None = None,
) -> list[Any]:
    """What the objective measures of every batch; the mode (train or eval) of the modules is put back.

    Args:
        rows: of a batch, measured at once; all of them if ``None``.
    """
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    parts = []
    try:
        with eagerly():
            for batch in batches:
                for part in [batch] if rows is None else batch.split(rows):
                    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                        parts.append(objective.measure(part.to(device)))
    finally:
        objective.train(was_training)
    return parts


def eagerly() -> AbstractContextManager[object]:
    """Without compiling, also where training is compiled: other shapes would be compiled for half a minute each."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import the compiler takes a second
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
