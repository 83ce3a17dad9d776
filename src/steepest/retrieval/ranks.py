"""Ranks: where the right text stands among all candidates, ties counted against the model.

    rank_i     = 1 + |{wrong j : S_ij >= S_ig}|,     g: the best of the right ones
    recall@k   = share of queries with rank <= k,     MRR = mean of 1 / rank
    MAP@R      = mean over queries of 1/R sum_{k <= R, k-th right} precision at k,     R: number of right ones

An encoder that maps every text to one point has all scores equal. Counting only strictly better candidates would
give it a recall of 1; here it gets 0. Where scores are equal every wrong candidate stands before every right one.

Shapes: N queries, M candidates, D width.

Sources: E. Voorhees, TREC-8, 1999 (MRR); K. Musgrave et al., https://arxiv.org/abs/2003.08505 (MAP@R).
"""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

QUERIES_AT_ONCE = 512
_RECALL = re.compile(r"recall@([1-9]\d{0,5})")


def ranks_of(
    queries_ND: Tensor,
    candidates_MD: Tensor,
    query_groups_N: Tensor,
    candidate_groups_M: Tensor,
    *,
    own_N: Tensor | None = None,
) -> Tensor:
    """The rank of each query's best right candidate, int64 (N,); M + 1 where none is right.

    Args:
        query_groups_N: a candidate is right if it carries the query's group.
        own_N: the place of the query itself among the candidates, to be left out; none: it is not there.

    >>> collapsed = torch.ones(3, 2)
    >>> ranks_of(collapsed, collapsed, torch.arange(3), torch.arange(3)).tolist()
    [3, 3, 3]
    """
    found = []
    for at in range(0, len(queries_ND), QUERIES_AT_ONCE):
        part = slice(at, at + QUERIES_AT_ONCE)
        scores_NM = queries_ND[part] @ candidates_MD.T
        right_NM = query_groups_N[part, None] == candidate_groups_M[None]
        if own_N is not None:
            scores_NM.scatter_(1, own_N[part, None], -torch.inf)
            right_NM.scatter_(1, own_N[part, None], False)
        best_N = scores_NM.masked_fill(~right_NM, -torch.inf).amax(1)
        wrong_NM = ~right_NM & (scores_NM >= best_N[:, None])
        if own_N is not None:
            wrong_NM.scatter_(1, own_N[part, None], False)
        ranks_N = 1 + wrong_NM.sum(1)
        found.append(torch.where(right_NM.any(1), ranks_N, len(candidates_MD) + 1))
    return torch.cat(found)


def ranks_in(scores_NM: Tensor, right_NM: Tensor) -> Tensor:
    """The same from whole matrices of scores and of what is right.

    >>> ranks_in(torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[True, False, False]])).tolist()
    [2]
    """
    best_N = scores_NM.masked_fill(~right_NM, -torch.inf).amax(1, keepdim=True)
    ranks_N = 1 + (~right_NM & (scores_NM >= best_N)).sum(1)
    return torch.where(right_NM.any(1), ranks_N, scores_NM.shape[1] + 1)


def rank_metrics(ranks_N: Tensor, names: Iterable[str]) -> dict[str, float]:
    """Named metrics of ranks: ``mrr`` and ``recall@k`` for any k.

    >>> rank_metrics(torch.tensor([1, 2, 4]), ["recall@1", "recall@2", "mrr"])
    {'recall@1': 0.3333333333333333, 'recall@2': 0.6666666666666666, 'mrr': 0.5833333333333334}
    """
    return {name: float(rank_values(ranks_N, name).mean()) for name in names}


def rank_values(ranks_N: Tensor, name: str) -> Tensor:
    """What each query adds to a metric of ranks, float64 (N,); the metric is the mean."""
    if name == "mrr":
        return 1.0 / ranks_N.double()
    found = _RECALL.fullmatch(name)
    if found is None:
        raise ValueError(f'expected "mrr" or "recall@k"; got "{name}"')
    return (ranks_N <= int(found[1])).double()


def is_rank_metric(name: str) -> bool:
    """Whether ``rank_metrics`` knows a name.

    >>> is_rank_metric("recall@20"), is_rank_metric("recall@0"), is_rank_metric("accuracy")
    (True, False, False)
    """
    return name == "mrr" or _RECALL.fullmatch(name) is not None


def map_at_r(embeddings_ND: Tensor, groups_N: Tensor) -> Tensor:
    """MAP@R of every text among all the others, float64 (N,); nan for the only one of its group.

    >>> z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> map_at_r(z, torch.tensor([0, 0, 1, 1])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    n = len(embeddings_ND)
    found = []
    for at in range(0, n, QUERIES_AT_ONCE):
        rows = torch.arange(at, min(at + QUERIES_AT_ONCE, n), device=embeddings_ND.device)
        scores_CN = (embeddings_ND[rows] @ embeddings_ND.T).double()
        scores_CN.scatter_(1, rows[:, None], -torch.inf)
        right_CN = (groups_N[rows, None] == groups_N[None]).scatter(1, rows[:, None], False)
        right_C = right_CN.sum(1)
        # Among equal scores the wrong ones come first: sort by right, then stably by score.
        first_CN = right_CN.to(torch.int8).argsort(dim=1, stable=True)
        order_CN = scores_CN.gather(1, first_CN).argsort(dim=1, descending=True, stable=True)
        hits_CN = right_CN.gather(1, first_CN).gather(1, order_CN).double()
        place = torch.arange(1, n + 1, dtype=torch.float64, device=embeddings_ND.device)
        precise_CN = hits_CN.cumsum(1) / place * hits_CN * (place <= right_C[:, None])
        found.append(precise_CN.sum(1) / right_C)
    return torch.cat(found)


def top_k(scores: Tensor, k: int) -> list[tuple[int, float]]:
    """Places and scores of the k best, best first; among equals the first one leads.

    >>> top_k(torch.tensor([0.1, 0.9, 0.9]), 2)
    [(1, 0.8999999761581421), (2, 0.8999999761581421)]
    """
    values: Sequence[float] = scores.tolist()
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    return [(place, values[place]) for place in order]
