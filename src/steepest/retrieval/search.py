"""Exact search: all cosines, the k best; and the fusion of two kinds of scores.

    fused = (1 - w) standard(cosine) + w standard(lexical),     standard(s) = (s - mean) / deviation, per query

Standardising puts both kinds on one scale, whatever theirs are. One weight w is chosen on development queries:
meaning and spelling err on different texts, so that some of both often finds more than either.

Shapes: N queries, M documents.
"""

from collections.abc import Sequence

from torch import Tensor

from steepest.retrieval.ranks import rank_values, ranks_in

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def fuse(cosines_NM: Tensor, lexical_NM: Tensor, weight: float) -> Tensor:
    """Scores of both kinds as one; weight 0 gives the cosines, 1 the lexical scores, as they are.

    >>> fuse(torch.tensor([[0.0, 1.0]]), torch.tensor([[9.0, 3.0]]), 0.5).tolist()
    [[0.0, 0.0]]
    """
    if weight == 0:
        return cosines_NM
    if weight == 1:
        return lexical_NM
    return (1 - weight) * _standard(cosines_NM) + weight * _standard(lexical_NM)


def choose_weight(
    cosines_NM: Tensor, lexical_NM: Tensor, right_NM: Tensor, metric: str, weights: Sequence[float] = WEIGHTS
) -> tuple[float, float]:
    """The weight with the best metric on these queries, and that metric; the smallest of equals."""
    found = [
        (float(rank_values(ranks_in(fuse(cosines_NM, lexical_NM, weight), right_NM), metric).mean()), -weight)
        for weight in weights
    ]
    best, weight = max(found)
    return -weight, best


def _standard(scores_NM: Tensor) -> Tensor:
    deviation_N1 = scores_NM.std(1, keepdim=True, correction=0)
    return (scores_NM - scores_NM.mean(1, keepdim=True)) / deviation_N1.clamp(min=1e-9)
