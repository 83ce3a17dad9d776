"""Contrastive losses: texts that belong together near each other, all others of the batch apart.

    InfoNCE      1/2N sum_i [ log sum_j exp S_ij - S_ii ]  +  [ log sum_j exp S_ji - S_ii ],     S = s q k^T
    supervised   1/N sum_i [ log sum_{j /= i} exp s z_i.z_j  -  mean over positives p of  s z_i.z_p ]
    sigmoid      1/N sum_ij -log sigmoid(z_ij (s q_i.k_j + b)),           z_ii = 1, otherwise -1
    Matryoshka   sum_d w_d loss(first d coordinates, scaled to length one again)

Pairs that share a text are no negatives of each other: they carry the same group, and a group's pairs do not see
each other. In the supervised loss a group (a class) is what belongs together, and all of its texts attract.

These are means, not sums: every text's loss depends on the whole batch anyway, so a batch is never cut in two here.
(``steepest.memory.cached_gradient`` cuts the encoder's work, which is what takes memory.)

Shapes: N pairs, M keys, D width.

Sources: A. van den Oord et al., "InfoNCE", https://arxiv.org/abs/1807.03748; P. Khosla et al., "Supervised
contrastive learning" (L_out), https://arxiv.org/abs/2004.11362; X. Zhai et al., "SigLIP",
https://arxiv.org/abs/2303.15343; A. Kusupati et al., "Matryoshka", https://arxiv.org/abs/2205.13147.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from steepest.losses.tiled import TILE, tiled_logsumexp, tiled_sigmoid_loss


def info_nce(
    queries_ND: Tensor,
    keys_MD: Tensor,
    *,
    scale: Tensor | float,
    groups_N: Tensor | None = None,
    key_groups_M: Tensor | None = None,
    symmetric: bool = True,
    tile: int = TILE,
) -> Tensor:
    """Mean cross-entropy of finding each query's key among all keys (and each key's query, if symmetric).

    Args:
        queries_ND: rows of length one.
        keys_MD: rows of length one; key i belongs to query i, those after the N-th are extra negatives.
        scale: one over the temperature; learns if it is a tensor that does.
        groups_N: pairs of one group are not negatives of each other; none: all pairs are.
        key_groups_M: the keys' groups, where there are extra negatives.
        symmetric: also find the query of every key.
        tile: see ``tiled_logsumexp``.

    >>> z = torch.eye(3)
    >>> round(info_nce(z, z, scale=1.0).item(), 4)  # log(e + 2) - 1
    0.5514
    """
    n = len(queries_ND)
    if len(keys_MD) < n:
        raise ValueError(f"expected a key for every query: {n} queries, {len(keys_MD)} keys")
    if groups_N is not None and key_groups_M is None and len(keys_MD) > n:
        raise ValueError("expected the groups of all keys, for there are more keys than queries")
    rows_N, columns_M = tiled_logsumexp(
        queries_ND, keys_MD, scale, query_groups_N=groups_N,
        key_groups_M=groups_N if key_groups_M is None else key_groups_M, tile=tile,
    )  # fmt: skip
    own_N: Tensor = torch.linalg.vecdot(queries_ND, keys_MD[:n]).to(rows_N.dtype) * scale
    found: Tensor = (rows_N - own_N).mean()
    return (found + (columns_M[:n] - own_N).mean()) / 2 if symmetric else found


def supervised_info_nce(
    embeddings_ND: Tensor, labels_N: Tensor, *, scale: Tensor | float, tile: int = TILE
) -> Tensor:
    """Mean over texts with a positive of: log-sum-exp over all others, less the mean over the positives.

    Args:
        embeddings_ND: rows of length one.
        labels_N: integers; equal ones attract.
        scale: one over the temperature.
        tile: see ``tiled_logsumexp``.

    Returns:
        The mean; 0 if no label occurs twice.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(supervised_info_nce(z, torch.tensor([0, 0, 1]), scale=1.0).item(), 4)  # log(e + 1) - 1
    0.3133
    """
    n = len(embeddings_ND)
    each_N = torch.arange(n, device=labels_N.device)
    rows_N, _ = tiled_logsumexp(
        embeddings_ND, embeddings_ND, scale, query_groups_N=each_N, key_groups_M=each_N, own=False, tile=tile
    )
    _, which_N, counts = torch.unique(labels_N, return_inverse=True, return_counts=True)
    others_N = counts[which_N] - 1
    # The mean over a class is one vector, so that no matrix is needed for the positives either.
    sums = embeddings_ND.new_zeros(len(counts), embeddings_ND.shape[1]).index_add(0, which_N, embeddings_ND)
    means_ND = (sums[which_N] - embeddings_ND) / others_N.clamp(min=1)[:, None]
    positive_N = torch.linalg.vecdot(embeddings_ND, means_ND).to(rows_N.dtype) * scale
    some_N = others_N > 0
    losses_N: Tensor = torch.where(some_N, rows_N - positive_N, 0.0)
    mean: Tensor = losses_N.sum() / some_N.sum().clamp(min=1)
    return mean


def sigmoid_loss(
    queries_ND: Tensor,
    keys_MD: Tensor,
    *,
    scale: Tensor,
    bias: Tensor,
    groups_N: Tensor | None = None,
    key_groups_M: Tensor | None = None,
    tile: int = TILE,
) -> Tensor:
    """SigLIP's loss: every pair by itself is yes or no; the sum over all pairs over the number of queries.

    Arguments as in ``info_nce``; ``bias`` starts near minus the log of the batch, for most pairs are "no".

    >>> z = torch.eye(2)
    >>> scale, bias = torch.tensor(1.0), torch.tensor(0.0)
    >>> round(sigmoid_loss(z, z, scale=scale, bias=bias).item(), 4)  # log(1 + 1/e) + log 2
    1.0064
    """
    if groups_N is not None and key_groups_M is None:
        key_groups_M = groups_N
    total = tiled_sigmoid_loss(
        queries_ND, keys_MD, scale, bias, query_groups_N=groups_N, key_groups_M=key_groups_M, tile=tile
    )
    return total / len(queries_ND)


def matryoshka(
    loss: Callable[[Tensor], Tensor],
    embeddings_ND: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Sum of a loss on the first d coordinates, for several d, so that cut embeddings are good ones too.

    Args:
        loss: of embeddings of length one.
        embeddings_ND: whole embeddings, of any length.
        dims: widths, each at most D.
        weights: one for each; equal ones that add up to 1 if not given.

    >>> z = torch.tensor([[3.0, 4.0]])
    >>> matryoshka(lambda x: x.sum(), z, dims=(2, 1))  # (1.4 + 1) / 2
    tensor(1.2000)
    """
    if not dims or max(dims) > embeddings_ND.shape[1] or min(dims) < 1:
        raise ValueError(f"expected dims between 1 and {embeddings_ND.shape[1]}, the width; got {list(dims)}")
    weights = [1 / len(dims)] * len(dims) if weights is None else weights
    parts = [
        weight * loss(F.normalize(embeddings_ND[:, :dim], dim=-1))
        for dim, weight in zip(dims, weights, strict=True)
    ]
    return torch.stack(parts).sum()
