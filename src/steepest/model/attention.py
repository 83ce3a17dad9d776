"""Attention: every position takes a weighted mean of the values it may see; who sees whom is the mask.

    out = softmax(q k^T / sqrt(E) + mask) v,      mask = 0 where i may attend to j, -inf elsewhere

The mask is a causal graph: an edge j -> i lets j's value reach i, and nothing else does. A text is the complete
chain (``mask=None``, j <= i); ``document_mask`` cuts the chain between documents; any other graph is a boolean
matrix. A position that may see nothing gets zero.

Three ways to compute the same, chosen by ``implementation``:

    eager     the formula with differentiable operations: any order of derivative, Jacobians, and the slow twin
    sdpa      torch's fused kernel: no T x T matrix in memory; the best on a GPU and for long sequences
    blocked   for short sequences on a CPU: a block of queries at a time against the keys before its end, so that
              what a text's mask cuts is mostly never computed; keeps the probabilities for the backward pass,
              which is then four batched matrix products (30 % less time than sdpa at 256 tokens)

Shapes: B sequences, H query heads, G key heads (H a multiple of G), T queries, S keys, E head width.

Sources: A. Vaswani et al., https://arxiv.org/abs/1706.03762; grouped queries, J. Ainslie et al.,
https://arxiv.org/abs/2305.13245; blocks, T. Dao et al., "FlashAttention", https://arxiv.org/abs/2205.14135.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from steepest.model.cache import KeysAndValues
from steepest.model.initial import linear
from steepest.model.rotary import Rotation, queries_keys_values

Implementation = Literal["auto", "eager", "sdpa", "blocked"]
QUERY_BLOCK = 64  # queries at a time
LONGEST_BLOCKED = 512  # tokens; beyond, the kept probabilities outgrow everything else


def causal_mask(queries: int, keys: int | None = None, device: torch.device | None = None) -> Tensor:
    """The complete chain, (T, S): the last query sees every key, the one before it one less, and so on.

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    keys = queries if keys is None else keys
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """The chain cut between documents, (B, T, T): attend to earlier positions of one's own document only.

    >>> document_mask(torch.tensor([[7, 7, 8]])).int()
    tensor([[[1, 0, 0],
             [1, 1, 0],
             [0, 0, 1]]], dtype=torch.int32)
    """
    same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    return same_BTT.tril()


def attention(
    q_BHTE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    *,
    mask: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Softmax attention of T queries over S keys.

    Args:
        q_BHTE: queries.
        k_BGSE: keys; G divides H, and each key head serves H / G query heads.
        v_BGSE: values.
        mask: boolean (B or 1, T, S), true where a query may see a key; ``None`` is causal, the last query
            being at the last key.
        implementation: see the top of this file; "auto" chooses by device, length and mask.

    Returns:
        ``out_BHTE``.

    >>> q = k = torch.zeros(1, 1, 3, 2)
    >>> v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]])
    >>> attention(q, k, v, implementation="eager")[0, 0]  # equal weights: running means
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.6667, 0.6667]])
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask, true where a query may see a key; got {mask.dtype}")
    if mask is None and q_BHTE.shape[2] > k_BGSE.shape[2]:
        raise ValueError(
            f"causal attention of {q_BHTE.shape[2]} queries needs as many keys; got {k_BGSE.shape[2]}: pass a mask"
        )
    if implementation == "auto":
        implementation = _choose(q_BHTE, k_BGSE)
    if implementation == "eager":
        return _eager(q_BHTE, k_BGSE, v_BGSE, mask)
    if implementation == "sdpa":
        return _sdpa(q_BHTE, k_BGSE, v_BGSE, mask)
    keep = torch.is_grad_enabled() and (q_BHTE.requires_grad or k_BGSE.requires_grad or v_BGSE.requires_grad)
    out: Tensor = _Blocked.apply(q_BHTE, k_BGSE, v_BGSE, mask, keep)  # type: ignore[no-untyped-call]
    return out


class Attention(nn.Module):
    """Multi-head self-attention with grouped queries, QK normalisation and rotary positions.

    Queries, keys and values are one matrix, ``qkv``: rows of the H query heads, then G key heads, then G value
    heads.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.eps = heads, kv_heads, head_dim, eps
        self.qkv = linear(width, (heads + 2 * kv_heads) * head_dim)
        self.q_norm = Gain(head_dim)
        self.k_norm = Gain(head_dim)
        self.out = linear(heads * head_dim, width)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        plain: bool = False,
        cache: KeysAndValues | None = None,
        block: int = 0,
    ) -> Tensor:
        """Map normalised states (B, T, D) to what attention adds to the residual stream."""
        qkv_BTNE = self.qkv(x_BTD).unflatten(-1, (-1, self.head_dim))
        q_BHTE, k_BGTE, v_BGTE = queries_keys_values(
            qkv_BTNE, self.q_norm.weight, self.k_norm.weight, rotation,
            kv_heads=self.kv_heads, eps=self.eps, plain=plain,
        )  # fmt: skip
        if cache is not None:
            k_BGTE, v_BGTE = cache.store(block, k_BGTE, v_BGTE)
        out_BHTE = attention(q_BHTE, k_BGTE, v_BGTE, mask=mask, implementation="eager" if plain else "auto")
        out: Tensor = self.out(out_BHTE.transpose(1, 2).flatten(2))
        return out


class Gain(nn.Module):
    """One learned factor a channel of a head; applied inside ``queries_keys_values``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


def _choose(q_BHTE: Tensor, k_BGSE: Tensor) -> Implementation:
    queries, keys = q_BHTE.shape[2], k_BGSE.shape[2]
    short = queries == keys <= LONGEST_BLOCKED
    return "blocked" if q_BHTE.is_cpu and short and not torch.compiler.is_compiling() else "sdpa"


def _eager(q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor | None) -> Tensor:
    groups = q_BHTE.shape[1] // k_BGSE.shape[1]
    k_BHSE, v_BHSE = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BGSE, v_BGSE))
    if mask is None:
        mask = causal_mask(q_BHTE.shape[2], k_BGSE.shape[2], q_BHTE.device)[None]
    scores_BHTS = q_BHTE @ k_BHSE.transpose(2, 3) * q_BHTE.shape[3] ** -0.5
    # A row without a single key would be 0/0: it is filled with zeros before and after the softmax.
    seen = mask[:, None]
    scores_BHTS = scores_BHTS.masked_fill(~seen, -torch.inf).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    out_BHTE: Tensor = scores_BHTS.softmax(-1).masked_fill(~seen, 0.0) @ v_BHSE
    return out_BHTE


def _sdpa(q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor | None) -> Tensor:
    queries, keys = q_BHTE.shape[2], k_BGSE.shape[2]
    causal = mask is None and queries == keys
    if mask is None and 1 < queries < keys:
        mask = causal_mask(queries, keys, q_BHTE.device)[None]
    return F.scaled_dot_product_attention(
        q_BHTE, k_BGSE, v_BGSE, attn_mask=None if mask is None else mask[:, None], is_causal=causal,
        enable_gqa=q_BHTE.shape[1] != k_BGSE.shape[1],
    )  # fmt: skip


class _Blocked(torch.autograd.Function):
    """A block of queries at a time. The R = H/G query heads of a key head stand below each other as rows.

    Shapes: C queries of the block, K keys it is compared with, M = B*G matrices of a batched product.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor | None, keep: bool
    ) -> Tensor:
        batch, heads, queries, width = q_BHTE.shape
        matrices, groups = batch * k_BGSE.shape[1], heads // k_BGSE.shape[1]
        q_MRTE = q_BHTE.reshape(matrices, groups, queries, width)
        k_MSE, v_MSE = k_BGSE.reshape(matrices, -1, width), v_BGSE.reshape(matrices, -1, width)
        out_MRTE = torch.empty_like(q_MRTE, memory_format=torch.contiguous_format)
        kept = []
        for rows, keys, hidden in _blocks(queries, k_MSE.shape[1], mask):
            scores_MXK = torch.bmm(_rows(q_MRTE, rows), k_MSE[:, keys].transpose(1, 2)).mul_(width**-0.5)
            p_MXK = _masked_softmax(scores_MXK, hidden, batch, rows)
            out_MRTE[:, :, rows] = torch.bmm(p_MXK, v_MSE[:, keys]).view(matrices, groups, -1, width)
            kept.append(p_MXK)
        if keep:
            ctx.save_for_backward(q_MRTE, k_MSE, v_MSE, mask, *kept)
        return out_MRTE.view(q_BHTE.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHTE: Tensor) -> tuple[Tensor | None, ...]:
        q_MRTE, k_MSE, v_MSE, mask, *kept = ctx.saved_tensors
        matrices, groups, queries, width = q_MRTE.shape
        dout_MRTE = dout_BHTE.reshape(q_MRTE.shape)
        dq_MRTE = torch.empty_like(q_MRTE)
        dk_MSE, dv_MSE = torch.zeros_like(k_MSE), torch.zeros_like(v_MSE)
        for (rows, keys, _), p_MXK in zip(_blocks(queries, k_MSE.shape[1], mask), kept, strict=True):
            dout_MXE = _rows(dout_MRTE, rows)
            dv_MSE[:, keys] += torch.bmm(p_MXK.transpose(1, 2), dout_MXE)
            dp_MXK = torch.bmm(dout_MXE, v_MSE[:, keys].transpose(1, 2))
            ds_MXK = torch._softmax_backward_data(dp_MXK, p_MXK, -1, p_MXK.dtype)
            dq_MRTE[:, :, rows] = torch.bmm(ds_MXK, k_MSE[:, keys]).view(matrices, groups, -1, width)
            dk_MSE[:, keys] += torch.bmm(ds_MXK.transpose(1, 2), _rows(q_MRTE, rows))
        dq_BHTE = dq_MRTE.mul_(width**-0.5).view(dout_BHTE.shape)
        dk_BGSE, dv_BGSE = (
            x.view(len(dout_BHTE), -1, *x.shape[1:]) for x in (dk_MSE.mul_(width**-0.5), dv_MSE)
        )
        return dq_BHTE, dk_BGSE, dv_BGSE, None, None


def _blocks(queries: int, keys: int, mask: Tensor | None) -> list[tuple[slice, slice, Tensor | None]]:
    """Rows of queries, the keys they may see, and (with a mask) what is hidden of these."""
    if mask is not None:
        return [(slice(0, queries), slice(0, keys), ~mask)]
    starts = range(0, queries, QUERY_BLOCK)
    ends = [min(start + QUERY_BLOCK, queries) for start in starts]
    return [(slice(i, j), slice(0, j + keys - queries), None) for i, j in zip(starts, ends, strict=True)]


def _rows(x_MRTE: Tensor, rows: slice) -> Tensor:
    """Some queries of all R heads that share a key head, as one (M, R*C, E) batch of rows."""
    return x_MRTE[:, :, rows].reshape(len(x_MRTE), -1, x_MRTE.shape[3])


def _masked_softmax(scores_MXK: Tensor, hidden: Tensor | None, batch: int, rows: slice) -> Tensor:
    """Softmax over the keys, in place; hidden keys get exactly zero, and so does a row that sees none."""
    length = rows.stop - rows.start
    if hidden is None:
        square = scores_MXK.view(len(scores_MXK), -1, length, scores_MXK.shape[2])[..., -length:]
        square += torch.full((length, length), -torch.inf, dtype=square.dtype, device=square.device).triu(1)
        return torch.softmax(scores_MXK, -1, out=scores_MXK)
    scores = scores_MXK.view(batch, -1, length, scores_MXK.shape[2])
    scores.masked_fill_(hidden[:, None], -torch.inf)
    torch.softmax(scores_MXK, -1, out=scores_MXK)
    scores.masked_fill_(hidden[:, None], 0.0)
    return scores_MXK
