"""Figures of retrieval and of likeness, by the form of the table, each with how sure one can be of it.

    pairs     recall@k, mrr                    classes   recall@k, mrr, map@r
    scores    spearman, pearson                (torchmetrics; of constant scores 0, for they say nothing)

A rank counts ties against the model (``retrieval/ranks.py``). Intervals are percentile bootstraps over queries, or
over rows for scores.
"""

import numpy as np
import torch
from torch import Tensor

from steepest.objectives.scores import bootstrap_interval
from steepest.retrieval.collapse import alignment, spread
from steepest.retrieval.ranks import is_rank_metric
from steepest.retrieval.truth import Judged, Truth

SHOWN = {
    "pairs": ("recall@1", "recall@10", "mrr"),
    "classes": ("recall@1", "map@r", "mrr"),
    "scores": ("spearman", "pearson"),
}
DEFAULT = {"pairs": "recall@10", "classes": "map@r", "scores": "spearman"}
CORRELATIONS = ("spearman", "pearson")


def known_metric(name: str, form: str = "auto") -> bool:
    """Whether there is a metric of that name, for that form of table.

    >>> known_metric("recall@5"), known_metric("map@r", "pairs"), known_metric("accuracy")
    (True, False, False)
    """
    if name in CORRELATIONS:
        return form in ("auto", "scores")
    return form != "scores" and (is_rank_metric(name) or (name == "map@r" and form != "pairs"))


def metric_names(form: str = "auto") -> list[str]:
    """Names to be shown in messages."""
    names = ["recall@1", "recall@10", "mrr", "map@r", "spearman", "pearson"]
    return [name for name in names if known_metric(name, form)]


def figure(judged: Judged, truth: Truth, name: str) -> float:
    """One metric."""
    if name not in CORRELATIONS:
        return float(judged.values(name).mean())
    return correlation(judged.fused_N, torch.from_numpy(truth.table.scores), name)


def interval(judged: Judged, truth: Truth, name: str, *, resamples: int = 400) -> tuple[float, float]:
    """Its 95% bootstrap interval."""
    if name not in CORRELATIONS:
        values = judged.values(name).numpy()
        return bootstrap_interval(lambda rows: float(values[rows].mean()), len(values), resamples=resamples)
    wanted_N = torch.from_numpy(truth.table.scores)

    def resampled(rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> float:
        chosen = torch.from_numpy(rows)
        return correlation(judged.fused_N[chosen], wanted_N[chosen], name)

    return bootstrap_interval(resampled, len(wanted_N), resamples=resamples)


def figures(fused: Judged, dense: Judged, z_BD: Tensor, truth: Truth, metric: str) -> dict[str, float]:
    """The target metric first, its kin, the same of the embedding alone, and how spread the embeddings are."""
    found = {name: figure(fused, truth, name) for name in dict.fromkeys((metric, *SHOWN[truth.table.form]))}
    found[f"dense_{metric}"] = figure(dense, truth, metric)
    if truth.table.form == "pairs":
        found["alignment"] = alignment(z_BD[:: truth.table.width], z_BD[1 :: truth.table.width])
    keys_MD = z_BD if truth.table.form == "scores" else z_BD[torch.from_numpy(truth.places)]
    return found | spread(keys_MD)


def correlation(said_N: Tensor, wanted_N: Tensor, name: str) -> float:
    """Spearman's or Pearson's correlation; 0 where one side is constant.

    >>> round(correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]), "spearman"), 4)
    1.0
    >>> correlation(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]), "spearman")
    0.0
    """
    from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

    said_N, wanted_N = said_N.double(), wanted_N.double()
    if len(said_N) < 2 or bool((said_N == said_N[0]).all()) or bool((wanted_N == wanted_N[0]).all()):
        return 0.0
    of = spearman_corrcoef if name == "spearman" else pearson_corrcoef
    return round(float(of(said_N, wanted_N)), 12)
