"""Softmax and sigmoid sums over all pairs of a batch, without the batch-by-batch matrix.

    S_ij    = s * q_i . k_j                                  s: the scale, one over the temperature
    row_i   = log sum_j exp S_ij,       column_j = log sum_i exp S_ij
    dS_ij   = g_i exp(S_ij - row_i) + h_j exp(S_ij - column_j)          g, h: gradients of row and column
    dq = s dS k,      dk = s dS^T q,      ds = sum_ij dS_ij q_i . k_j = sum_i q_i . (dS k)_i

A tile of S is made, summed up and forgotten; the backward pass makes it again from the two vectors ``row`` and
``column``. So a batch of 65,536 needs some tens of megabytes where its matrix would need sixteen gigabytes, and it
is faster besides, for a tile stays in the cache. Rows keep a running maximum and a sum relative to it, which is
exact: nothing overflows, nothing that counts underflows.

Shapes: N queries, M keys, D width; R rows and C columns of a tile.

Sources: running log-sum-exp, M. Milakov and N. Gimelshein, https://arxiv.org/abs/1805.02867; tiles of a
contrastive loss, Z. Cheng et al., "Inf-CL", https://arxiv.org/abs/2410.17243.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE = 1024  # rows and columns at once: 4 MiB, which a core's cache holds


def tiled_logsumexp(
    queries_ND: Tensor,
    keys_MD: Tensor,
    scale: Tensor | float = 1.0,
    *,
    query_groups_N: Tensor | None = None,
    key_groups_M: Tensor | None = None,
    own: bool = True,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """Row-wise and column-wise log-sum-exp of ``scale * queries @ keys.T``.

    Args:
        queries_ND: rows, floating point.
        keys_MD: columns.
        scale: multiplies every product; may be a tensor that learns.
        query_groups_N: integers; a query does not see the keys of its own group.
        key_groups_M: the keys' groups; both are given, or neither.
        own: whether query i sees key i all the same.
        tile: rows and columns of S held at once.

    Returns:
        ``rows_N`` and ``columns_M``; ``-inf`` where nothing is seen. Computed in float32 at least.

    >>> rows_N, columns_M = tiled_logsumexp(torch.zeros(3, 2), torch.zeros(4, 2))
    >>> rows_N  # log 4
    tensor([1.3863, 1.3863, 1.3863])
    """
    if queries_ND.ndim != 2 or keys_MD.ndim != 2 or queries_ND.shape[1] != keys_MD.shape[1]:
        raise ValueError(
            f"expected queries (N, D) and keys (M, D); got {tuple(queries_ND.shape)} and {tuple(keys_MD.shape)}"
        )
    if (query_groups_N is None) != (key_groups_M is None):
        raise ValueError("expected groups of queries and of keys, or neither; got one of them")
    scale = torch.as_tensor(scale, device=queries_ND.device)
    rows_N, columns_M = _LogSumExp.apply(  # type: ignore[no-untyped-call]
        queries_ND, keys_MD, scale, query_groups_N, key_groups_M, own, tile
    )
    return rows_N, columns_M


def tiled_sigmoid_loss(
    queries_ND: Tensor,
    keys_MD: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    query_groups_N: Tensor | None = None,
    key_groups_M: Tensor | None = None,
    tile: int = TILE,
) -> Tensor:
    """Sum over all pairs of ``-log sigmoid(z_ij (scale q_i . k_j + bias))``, z_ii = 1 and -1 elsewhere.

    Pairs (i, j) of one group are left out where i != j. The gradient is made beside the value, and the backward
    pass only scales it, so a call can be differentiated once.

    >>> loss = tiled_sigmoid_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor(1.0), torch.tensor(0.0))
    >>> round(loss.item(), 4)  # 4 log 2
    2.7726
    """
    loss: Tensor = _SigmoidLoss.apply(  # type: ignore[no-untyped-call]
        queries_ND, keys_MD, scale, bias, query_groups_N, key_groups_M, tile
    )
    return loss


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_ND: Tensor,
        keys_MD: Tensor,
        scale: Tensor,
        query_groups_N: Tensor | None,
        key_groups_M: Tensor | None,
        own: bool,
        tile: int,
    ) -> tuple[Tensor, Tensor]:
        q_ND, k_MD = _wide(queries_ND), _wide(keys_MD)
        top = [q_ND.new_full((len(x),), -torch.inf) for x in (q_ND, k_MD)]
        total = [torch.zeros(len(x), dtype=torch.float64, device=x.device) for x in (q_ND, k_MD)]
        exp_RC = q_ND.new_empty(0)
        for rows, columns, s_RC in _tiles(q_ND, k_MD, float(scale), tile):
            hidden = _hidden(rows, columns, query_groups_N, key_groups_M, own)
            if hidden is not None:
                s_RC.masked_fill_(hidden, -torch.inf)
            if exp_RC.shape != s_RC.shape:
                exp_RC = torch.empty_like(s_RC)
            for axis, part in ((0, rows), (1, columns)):
                highest = torch.maximum(top[axis][part], s_RC.amax(1 - axis))
                finite = highest.masked_fill(highest == -torch.inf, 0.0)  # -inf less -inf is not a number
                torch.sub(s_RC, finite.unsqueeze(1 - axis), out=exp_RC).exp_()
                total[axis][part] *= (top[axis][part] - finite).exp()
                total[axis][part] += exp_RC.sum(1 - axis)
                top[axis][part] = highest
        out = [(high.double() + sums.log()).to(high.dtype) for high, sums in zip(top, total, strict=True)]
        ctx.save_for_backward(queries_ND, keys_MD, scale, query_groups_N, key_groups_M, *out)
        ctx.own, ctx.tile = own, tile
        return out[0], out[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows_N: Tensor, dcolumns_M: Tensor) -> tuple[Tensor | None, ...]:
        queries_ND, keys_MD, scale, query_groups_N, key_groups_M, rows_N, columns_M = ctx.saved_tensors
        q_ND, k_MD, factor = _wide(queries_ND), _wide(keys_MD), float(scale)
        dq_ND, dk_MD = torch.zeros_like(q_ND), torch.zeros_like(k_MD)
        logs = [
            x.masked_fill(x == -torch.inf, torch.inf) for x in (rows_N, columns_M)
        ]  # sees nothing: exp is 0
        outer = [dx for dx, _ in ((drows_N, 0), (dcolumns_M, 1))]
        used = [bool(dx.any()) for dx in outer]
        exp_RC = ds_RC = q_ND.new_empty(0)
        for rows, columns, s_RC in _tiles(q_ND, k_MD, factor, ctx.tile):
            hidden = _hidden(rows, columns, query_groups_N, key_groups_M, ctx.own)
            if exp_RC.shape != s_RC.shape:
                exp_RC, ds_RC = torch.empty_like(s_RC), torch.empty_like(s_RC)
            ds_RC.zero_()
            for axis, part in ((0, rows), (1, columns)):
                if used[axis]:
                    torch.sub(s_RC, logs[axis][part].unsqueeze(1 - axis), out=exp_RC).exp_()
                    ds_RC.addcmul_(exp_RC, outer[axis][part].unsqueeze(1 - axis))
            if hidden is not None:
                ds_RC.masked_fill_(hidden, 0.0)
            dq_ND[rows].addmm_(ds_RC, k_MD[columns])
            dk_MD[columns].addmm_(ds_RC.T, q_ND[rows])
        dscale = torch.linalg.vecdot(dq_ND, q_ND).sum(dtype=torch.float64).to(scale.dtype)
        return (
            dq_ND.mul_(factor).to(queries_ND.dtype), dk_MD.mul_(factor).to(keys_MD.dtype), dscale.view(scale.shape),
            None, None, None, None,
        )  # fmt: skip


class _SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_ND: Tensor,
        keys_MD: Tensor,
        scale: Tensor,
        bias: Tensor,
        query_groups_N: Tensor | None,
        key_groups_M: Tensor | None,
        tile: int,
    ) -> Tensor:
        q_ND, k_MD, factor = _wide(queries_ND), _wide(keys_MD), float(scale)
        dq_ND, dk_MD = torch.zeros_like(q_ND), torch.zeros_like(k_MD)
        loss = torch.zeros((), dtype=torch.float64, device=q_ND.device)
        dbias = torch.zeros_like(loss)
        for rows, columns, s_RC in _tiles(q_ND, k_MD, factor, tile):
            s_RC += float(bias)
            hidden = _hidden(rows, columns, query_groups_N, key_groups_M, own=True)
            mine = _diagonal(s_RC, rows, columns)
            mine.neg_()  # now s holds -z x, and softplus(-z x) = -log sigmoid(z x)
            if hidden is not None:
                s_RC.masked_fill_(hidden, -torch.inf)
            loss += F.softplus(s_RC).sum(dtype=torch.float64)
            s_RC.sigmoid_()
            mine.neg_()
            dbias += s_RC.sum(dtype=torch.float64)
            dq_ND[rows].addmm_(s_RC, k_MD[columns])
            dk_MD[columns].addmm_(s_RC.T, q_ND[rows])
        dscale = torch.linalg.vecdot(dq_ND, q_ND).sum(dtype=torch.float64)
        ctx.save_for_backward(
            dq_ND.mul_(factor).to(queries_ND.dtype), dk_MD.mul_(factor).to(keys_MD.dtype),
            dscale.to(scale.dtype).view(scale.shape), dbias.to(bias.dtype).view(bias.shape),
        )  # fmt: skip
        return loss.to(q_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        return (*(part * dloss.to(part.dtype) for part in ctx.saved_tensors), None, None, None)


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _tiles(q_ND: Tensor, k_MD: Tensor, scale: float, tile: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and the tile of S they make; one buffer serves tiles of one shape."""
    s_RC = q_ND.new_empty(0)
    with torch.autocast(q_ND.device.type, enabled=False):
        for top in range(0, len(q_ND), tile):
            rows = slice(top, min(top + tile, len(q_ND)))
            for left in range(0, len(k_MD), tile):
                columns = slice(left, min(left + tile, len(k_MD)))
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                if s_RC.shape != shape:
                    s_RC = q_ND.new_empty(shape)
                torch.mm(q_ND[rows], k_MD[columns].T, out=s_RC)
                yield rows, columns, s_RC.mul_(scale)


def _hidden(
    rows: slice, columns: slice, query_groups_N: Tensor | None, key_groups_M: Tensor | None, own: bool
) -> Tensor | None:
    """Which entries of a tile count nothing, (R, C); ``None`` if all count."""
    if query_groups_N is None or key_groups_M is None:
        return None
    same_RC = query_groups_N[rows, None] == key_groups_M[None, columns]
    if own:
        _diagonal(same_RC, rows, columns).fill_(False)
    return same_RC


def _diagonal(x_RC: Tensor, rows: slice, columns: slice) -> Tensor:
    """A view of the entries (i, i) of the whole matrix that lie in a tile, maybe none."""
    offset = rows.start - columns.start
    if offset >= x_RC.shape[1] or -offset >= x_RC.shape[0]:
        return x_RC.new_empty(0)
    return x_RC.diagonal(offset)
