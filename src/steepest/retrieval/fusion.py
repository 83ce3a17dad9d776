"""Fusion: one score out of several, with weights that held-out rows choose.

    S = sum_v w_v S_v,  w_v >= 0        the embedding's cosine, and lexical scores of several cuts of the text

    ranking    w = argmax  sum_i  log  sum_{right j} exp S_ij / sum_j exp S_ij        (a conditional logit)
    scores     w = argmin  sum_i (y_i - w_0 - S_i)^2                                  (least squares, w_v >= 0)

Meaning and spelling err on different texts, so that some of both finds more than either. A handful of weights from
some hundreds of queries cannot overfit by much, and a likelihood says more about them than a count of hits does.
Where a single score serves the target metric better than all of them, that one is taken.

Shapes: V scores, N queries, M candidates.
Source: D. McFadden, "Conditional logit analysis of qualitative choice behavior", 1974.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

PENALTY = 1e-3  # on the sum of the weights, each in spreads of its score: what is of no use vanishes
ITERATIONS = 30
SMALLEST = 1e-12


def fit_ranking(
    scores: Sequence[Tensor],
    right_NM: Tensor,
    quality: Callable[[Tensor], float],
    start: Tensor | None = None,
) -> Tensor:
    """Weights of several scores, float64 (V,), under which the right candidates are likely.

    Args:
        scores: V of (N, M); -inf in all of them where a candidate does not count.
        right_NM: which candidates are right; every query has one at least.
        quality: of fused scores, more is better; decides against a single score.

    >>> good, bad = torch.eye(4) * 2, torch.zeros(4, 4)
    >>> w = fit_ranking([good, bad], torch.eye(4, dtype=torch.bool), lambda s: float(s.diagonal().sum()))
    >>> bool(w[0] > 0.1)
    True
    """
    live = [at for at, s in enumerate(scores) if float(s[s > -torch.inf].std()) > 0]
    if len(live) < len(scores):  # a score that is constant here may be anything elsewhere: it gets no weight
        weights = torch.zeros(len(scores), dtype=torch.float64)
        if len(live) > 1:
            weights[live] = fit_ranking([scores[at] for at in live], right_NM, quality)
        else:
            weights[live or [0]] = 1.0
        return weights
    finite = [s.masked_fill(s == -torch.inf, 0.0) for s in scores]
    spread = torch.stack([s.std().double().clamp(min=1e-6) for s in finite])
    counted = scores[0] > -torch.inf
    logs = torch.zeros(len(scores), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def cost() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            fused = fuse(finite, logs.exp() / spread).masked_fill(~counted, -torch.inf)
            found_N = torch.logsumexp(fused.masked_fill(~right_NM, -torch.inf), 1)
            loss = (torch.logsumexp(fused, 1) - found_N).mean() + PENALTY * logs.exp().sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(cost)  # type: ignore[no-untyped-call]
    together = (logs.detach().exp() / spread).nan_to_num(0.0)
    candidates = [together, *torch.eye(len(scores), dtype=torch.float64)]
    qualities = [quality(fuse(scores, weights)) for weights in candidates]
    best: Tensor = candidates[max(range(len(candidates)), key=lambda at: (qualities[at], -at))]
    return best


def fit_scores(scores_VN: Sequence[Tensor], wanted_N: Tensor) -> Tensor:
    """Non-negative weights, float64 (V,), of scores that add up to something like the wanted ones.

    >>> fit_scores([torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)], torch.tensor([1.0, 3.0, 5.0])).round().tolist()
    [2.0, 0.0]
    """
    from scipy.optimize import nnls

    columns = np.stack([s.double().numpy() for s in scores_VN], axis=1)
    columns = columns - columns.mean(axis=0)
    wanted = wanted_N.double().numpy()
    weights, _ = nnls(columns, wanted - wanted.mean())
    if not weights.any():
        weights[0] = 1.0
    return torch.from_numpy(weights)


def fuse(scores: Sequence[Tensor], weights_V: Tensor) -> Tensor:
    """The weighted sum, in the scores' own dtype; those without weight are not looked at.

    >>> fuse([torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0])], torch.tensor([1.0, 0.5])).tolist()
    [3.0, 2.0]
    """
    total = torch.zeros_like(scores[0])
    for score, weight in zip(scores, weights_V, strict=True):
        if weight.requires_grad or float(weight) > SMALLEST:
            total = total + score * weight.to(score.dtype)
    return total
