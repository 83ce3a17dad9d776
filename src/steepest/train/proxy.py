"""The loss is a proxy: where the lowest loss and the best metric are different checkpoints, both are named."""

from collections.abc import Iterable, Mapping
from typing import Any

from steepest.objectives import Objective


def proxy(records: Iterable[Mapping[str, Any]], best_step: int, objective: Objective) -> dict[str, Any]:
    """What the held-out loss would have chosen, beside what the metric chose.

    Args:
        records: lines of ``metrics.jsonl``; those with an evaluation count.
        best_step: the step that the metric chose.

    Returns:
        ``metric``, ``best_step``, ``lowest_loss_step``, the metric and the loss at both, whether the metrics ``differ``, and
        the curves ``steps``, ``losses`` and ``metrics``. Nothing where the metric is the loss by another name.
    """
    name = objective.metric
    rows = [(line["step"], line["evaluation"]) for line in records if line.get("evaluation") and line["step"]]
    rows = list({step: found for step, found in rows if "loss" in found and name in found}.items())
    if not rows or name in ("loss", "log_loss", "bits_per_byte", "perplexity"):
        return {}
    lowest_step, lowest = min(rows, key=lambda row: row[1]["loss"])
    best = dict(rows).get(best_step, lowest)
    return {
        "metric": name,
        "best_step": best_step,
        "lowest_loss_step": lowest_step,
        "metric_at_best": best[name],
        "metric_at_lowest_loss": lowest[name],
        "loss_at_best": best["loss"],
        "loss_at_lowest_loss": lowest["loss"],
        "differ": best[name] != lowest[name],
        "steps": [step for step, _ in rows],
        "losses": [found["loss"] for _, found in rows],
        "metrics": [found[name] for _, found in rows],
    }
