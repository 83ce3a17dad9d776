"""Held-out evaluation: every held-out token predicted once, sums added up, divided once."""

from collections import Counter
from collections.abc import Iterable

import torch

from steepest.data.batches import Batch
from steepest.objectives import Objective


def evaluate(
    objective: Objective, batches: Iterable[Batch], *, autocast: torch.dtype | None = None
) -> dict[str, float]:
    """Metrics of an objective over batches; the mode (train or eval) of the modules is put back."""
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    sums: Counter[str] = Counter()
    try:
        # Eager, also where training is compiled: other shapes would be compiled for half a minute each.
        with torch.compiler.set_stance("force_eager"):
            for batch in batches:
                with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                    for name, value in objective.measure(batch.to(device)).items():
                        sums[name] += value  # type: ignore[assignment]
    finally:
        objective.train(was_training)
    return objective.metrics(sums)
