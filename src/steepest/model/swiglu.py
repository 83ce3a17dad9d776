"""SwiGLU: the gated feed-forward half of a block, with a hand-written backward pass.

    y = W_down (silu(a) * b),      [a, b] = W_gate_up x,      silu(a) = a * sigmoid(a)

Gate and up are one matrix: one product instead of two. The hand-written gradient writes both halves of it
into one buffer (torch would make two and concatenate them) and saves only ``[a, b]``.

Source: N. Shazeer, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from steepest.model.initial import linear


def swiglu(gate_up: Tensor, *, plain: bool = False) -> Tensor:
    """``silu(gate) * up`` of a tensor that holds both, side by side in the last dimension.

    ``plain`` uses torch's own operations, which can be differentiated any number of times.

    >>> swiglu(torch.tensor([[0.0, 1.0, 5.0, 2.0]]))  # gates 0 and 1, ups 5 and 2
    tensor([[0.0000, 1.4621]])
    """
    if plain or torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    y: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


class SwiGLU(nn.Module):
    """Feed-forward layer: widen, gate, narrow; maps (..., D) to (..., D), every position by itself."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.gate_up = linear(width, 2 * mlp_width)
        self.down = linear(mlp_width, width)

    def forward(self, x: Tensor, *, plain: bool = False) -> Tensor:
        """Apply to the last dimension of ``x``."""
        out: Tensor = self.down(swiglu(self.gate_up(x), plain=plain))
        return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        ctx.save_for_backward(gate_up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, -1)
        torch.mul(F.silu(gate), dy, out=d_up)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=d_gate)
        return d_gate_up
