"""Rotary positions and per-head QK normalisation: what turns projections into queries and keys.

    q = R(t) (w_q * x / rms(x)),      k = R(t) (w_k * x / rms(x))
    R(t) [a, b] = [a cos(t f) - b sin(t f),  b cos(t f) + a sin(t f)],      f_i = theta^(-2i / E)

R(t) turns each pair (a_i, b_i) by an angle that grows with the position t, so that a query's product with a key
depends on their distance only. Normalised heads keep the logits of attention bounded. Both are linear in x but
for the scalar 1/rms, so the fast path turns first, with the gains folded into the table of angles, and scales
last: six passes over memory instead of about thirty in forward and backward.

Shapes: B sequences, T positions, H query heads, G key (and value) heads, N = H + 2G, E head width, F = E/2.

Sources: J. Su et al., "RoFormer", https://arxiv.org/abs/2104.09864; A. Henry et al., "Query-Key Normalization",
https://arxiv.org/abs/2010.04245.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from steepest.model.norm import inverse_rms, rms_norm

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, 1, F), or (B, T, 1, F) where rows differ


def rotation_at(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype = torch.float32
) -> Rotation:
    """Cosines and sines of every position's angles; computed in float32 at least.

    Args:
        positions: (T,) or (B, T) positions.
        head_dim: E, even.
        theta: the slowest pair turns once in about ``2 pi theta`` positions.
        dtype: of the result.

    >>> cos, sin = rotation_at(torch.arange(2), head_dim=4, theta=100.0)
    >>> cos[:, 0]  # frequencies 1 and 1/10
    tensor([[1.0000, 1.0000],
            [0.5403, 0.9950]])
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponent = torch.arange(0, head_dim, 2, dtype=wide, device=positions.device) / head_dim
    angles = positions[..., None, None].to(wide) / theta**exponent
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTHE: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair ``(x[i], x[i + E/2])`` by its position's angle.

    >>> quarter = torch.tensor(0.0).expand(1, 1, 1), torch.tensor(1.0).expand(1, 1, 1)  # cos and sin of 90 degrees
    >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), quarter)
    tensor([[[[0., 1.]]]])
    """
    cos, sin = rotation
    a, b = x_BTHE.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def queries_keys_values(
    qkv_BTNE: Tensor,
    q_weight_E: Tensor,
    k_weight_E: Tensor,
    rotation: Rotation,
    *,
    kv_heads: int,
    eps: float = 1e-6,
    plain: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split a fused projection into heads; normalise and turn queries and keys.

    Args:
        qkv_BTNE: H query heads, then G key heads, then G value heads.
        q_weight_E: gain of the queries' normalisation, shared by the heads.
        k_weight_E: gain of the keys'.
        rotation: see ``rotation_at``.
        kv_heads: G.
        eps: added to the mean square.
        plain: use differentiable operations throughout (any order of derivative).

    Returns:
        ``q_BHTE``, ``k_BGTE`` and ``v_BGTE``.
    """
    if plain or torch.compiler.is_compiling():
        heads = qkv_BTNE.shape[2] - 2 * kv_heads
        q_BTHE, k_BTGE, v_BTGE = torch.split(qkv_BTNE, [heads, kv_heads, kv_heads], dim=2)
        q_BTHE = rotate(rms_norm(q_BTHE, q_weight_E, eps, plain=plain), rotation)
        k_BTGE = rotate(rms_norm(k_BTGE, k_weight_E, eps, plain=plain), rotation)
        return q_BTHE.transpose(1, 2), k_BTGE.transpose(1, 2), v_BTGE.transpose(1, 2)
    q_BHTE, k_BGTE, v_BGTE = _QueriesKeysValues.apply(  # type: ignore[no-untyped-call]
        qkv_BTNE, q_weight_E, k_weight_E, *rotation, kv_heads, eps
    )
    return q_BHTE, k_BGTE, v_BGTE


def _turn(x: Tensor, aa: Tensor, ab: Tensor, bb: Tensor, ba: Tensor, *, out: Tensor) -> None:
    """``out = [a * aa - b * ab, b * bb + a * ba]`` for the halves a, b of ``x``."""
    a, b = x.chunk(2, -1)
    out_a, out_b = out.chunk(2, -1)
    torch.mul(a, aa, out=out_a).addcmul_(b, ab, value=-1)
    torch.mul(b, bb, out=out_b).addcmul_(a, ba)


class _QueriesKeysValues(torch.autograd.Function):
    """Normalise and turn in one step; saves the projection itself and 1/rms."""

    @staticmethod
    def forward(
        ctx: Any, qkv_BTNE: Tensor, q_weight_E: Tensor, k_weight_E: Tensor, cos: Tensor, sin: Tensor,
        kv_heads: int, eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        turned = qkv_BTNE.shape[2] - kv_heads
        r_BTN1 = inverse_rms(qkv_BTNE[:, :, :turned], eps)
        ctx.save_for_backward(qkv_BTNE, q_weight_E, k_weight_E, cos, sin, r_BTN1)
        ctx.kv_heads = kv_heads
        outputs = []
        for part, gain in (
            (slice(0, turned - kv_heads), q_weight_E),
            (slice(turned - kv_heads, turned), k_weight_E),
        ):
            x = qkv_BTNE[:, :, part]
            gain_a, gain_b = gain.to(x.dtype).chunk(2, -1)
            # Laid out head by head, as attention reads it.
            y_BHTE = x.new_empty(len(x), x.shape[2], x.shape[1], x.shape[3])
            _turn(x, cos * gain_a, sin * gain_b, cos * gain_b, sin * gain_a, out=y_BHTE.transpose(1, 2))
            outputs.append(y_BHTE.mul_(r_BTN1[:, :, part].transpose(1, 2)))
        return outputs[0], outputs[1], qkv_BTNE[:, :, turned:].transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_BHTE: Tensor, dk_BGTE: Tensor, dv_BGTE: Tensor) -> tuple[Tensor | None, ...]:
        qkv_BTNE, q_weight_E, k_weight_E, cos, sin, r = ctx.saved_tensors
        kv_heads, width = ctx.kv_heads, qkv_BTNE.shape[3]
        turned = qkv_BTNE.shape[2] - kv_heads
        heads = turned - kv_heads
        x = qkv_BTNE[:, :, :turned]
        u = torch.empty_like(x, memory_format=torch.contiguous_format)  # r * R(t)^T dy
        _turn(dq_BHTE.transpose(1, 2), cos, -sin, cos, -sin, out=u[:, :, :heads])
        _turn(dk_BGTE.transpose(1, 2), cos, -sin, cos, -sin, out=u[:, :, heads:])
        u.mul_(r)
        gain = torch.cat((q_weight_E.expand(heads, width), k_weight_E.expand(kv_heads, width))).to(x.dtype)
        scratch = torch.mul(u, x)
        d_gain = scratch.sum((0, 1))
        dot = torch.linalg.vecdot(scratch, gain)[..., None].mul_(r).mul_(r).div_(width)
        dqkv_BTNE = torch.empty_like(qkv_BTNE)
        torch.mul(u, gain, out=dqkv_BTNE[:, :, :turned]).addcmul_(x, dot, value=-1)
        dqkv_BTNE[:, :, turned:] = dv_BGTE.transpose(1, 2)
        dq_weight, dk_weight = d_gain[:heads].sum(0), d_gain[heads:].sum(0)
        return dqkv_BTNE, dq_weight.to(q_weight_E.dtype), dk_weight.to(k_weight_E.dtype), *4 * (None,)
