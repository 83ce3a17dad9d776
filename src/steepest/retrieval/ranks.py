"""Ranks: where the right text stands among all candidates, ties counted against the model.

    rank_i     = 1 + |{wrong j : S_ij >= S_ig}|,     g: the best of the right ones
    recall@k   = share of queries with rank <= k,     MRR = mean of 1 / rank
    MAP@R      = mean over queries of 1/R sum_{k <= R, k-th right} precision at k,     R: number of right ones

An encoder that maps every text to one point has all scores equal. Counting only strictly better candidates would
give it a recall of 1; here it gets 0. Where scores are equal every wrong candidate stands before every right one.

Shapes: N queries, M candidates. A candidate that does not count (the query itself) has score -inf and is not right.

Sources: E. Voorhees, TREC-8, 1999 (MRR); K. Musgrave et al., https://arxiv.org/abs/2003.08505 (MAP@R).
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_RECALL = re.compile(r"recall@([1-9]\d{0,5})")


def ranks_in(scores_NM: Tensor, right_NM: Tensor) -> Tensor:
    """The rank of each query's best right candidate, int64 (N,); M + 1 where none is right.

    >>> ranks_in(torch.ones(1, 3), torch.tensor([[True, False, False]])).tolist()  # collapsed: last, not first
    [3]
    """
    best_N = scores_NM.masked_fill(~right_NM, -torch.inf).amax(1, keepdim=True)
    wrong_NM = ~right_NM & (scores_NM >= best_N) & (scores_NM > -torch.inf)
    return torch.where(right_NM.any(1), 1 + wrong_NM.sum(1), scores_NM.shape[1] + 1)


def map_at_r_in(scores_NM: Tensor, right_NM: Tensor) -> Tensor:
    """MAP@R of each query, float64 (N,); nan where none is right.

    >>> map_at_r_in(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[True, False, True]])).tolist()  # 1/2 (1 + 0)
    [0.5]
    """
    scores_NM, right_N = scores_NM.double(), right_NM.sum(1)
    # Among equal scores the wrong ones come first: sort by right, then stably by score.
    first_NM = right_NM.to(torch.int8).argsort(dim=1, stable=True)
    order_NM = scores_NM.gather(1, first_NM).argsort(dim=1, descending=True, stable=True)
    hits_NM = right_NM.gather(1, first_NM).gather(1, order_NM).double()
    place = torch.arange(1, scores_NM.shape[1] + 1, dtype=torch.float64, device=scores_NM.device)
    precise_NM = hits_NM.cumsum(1) / place * hits_NM * (place <= right_N[:, None])
    return precise_NM.sum(1) / right_N


def rank_values(ranks_N: Tensor, name: str) -> Tensor:
    """What each query adds to a metric of ranks, float64 (N,); the metric is the mean.

    >>> rank_values(torch.tensor([1, 2, 4]), "recall@2").tolist(), rank_values(torch.tensor([1, 4]), "mrr").tolist()
    ([1.0, 1.0, 0.0], [1.0, 0.25])
    """
    if name == "mrr":
        return 1.0 / ranks_N.double()
    found = _RECALL.fullmatch(name)
    if found is None:
        raise ValueError(f'expected "mrr" or "recall@k"; got "{name}"')
    return (ranks_N <= int(found[1])).double()


def is_rank_metric(name: str) -> bool:
    """Whether ``rank_values`` knows a name.

    >>> is_rank_metric("recall@20"), is_rank_metric("recall@0"), is_rank_metric("accuracy")
    (True, False, False)
    """
    return name == "mrr" or _RECALL.fullmatch(name) is not None


def top_k(scores: Tensor, k: int) -> list[tuple[int, float]]:
    """Places and scores of the k best, best first; among equals the first one leads.

    >>> top_k(torch.tensor([0.1, 0.9, 0.9]), 2)
    [(1, 0.8999999761581421), (2, 0.8999999761581421)]
    """
    values: Sequence[float] = scores.tolist()
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    return [(place, values[place]) for place in order]
