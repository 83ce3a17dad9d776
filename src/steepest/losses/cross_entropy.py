"""Cross-entropy of the next token: plain, and chunked, which never holds the (tokens, vocabulary) logits.

    logits_NV = hidden_ND @ weight_VD.T,      p = softmax(logits)
    loss      = sum_n [ log Z_n - logits[n, t_n] ] + z * sum_n (log Z_n)^2,      Z_n = sum_v exp(logits[n, v])
    d loss / d logits[n, v] = p[n, v] * (1 + 2 z log Z_n) - [v = t_n]

The logits of a long batch are the largest tensor of a small model, by far. But their gradient needs nothing
that is not known in the forward pass, so it is made there: a chunk of rows becomes logits, then softmax, then
gradient, then two matrix products, all in one buffer that stays in the cache. The backward pass only scales.
A sum (not a mean) is returned: micro-batches with unequal numbers of targets then add up exactly.

Shapes: N tokens, D width, V vocabulary.

Sources: cross-entropy, C. E. Shannon 1948; z-loss, A. Chowdhery et al., "PaLM", https://arxiv.org/abs/2204.02311;
gradients in the forward pass, P.-L. Hsu et al., "Liger Kernel", https://arxiv.org/abs/2410.10989, and
E. Wijmans et al., "Cut Your Losses", https://arxiv.org/abs/2411.09009.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORE_INDEX = -100  # targets of this value are not counted
CHUNK_BYTES = 8 << 20  # of logits at once: fits the cache of a CPU, keeps the matrix products large


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Sum over counted targets of ``-log softmax(logits)[target]``, in nats: the plain reference.

    >>> cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, -100]))  # 2 log 4
    tensor(2.7726)
    """
    return F.cross_entropy(logits_NV, targets_N, ignore_index=ignore_index, reduction="sum")


def chunked_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    chunk: int | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """Sum of the cross-entropy of ``hidden @ weight.T`` against the targets, without the whole logits.

    Equal to ``cross_entropy(hidden_ND @ weight_VD.T, targets_N)`` plus the z-loss, in value and gradient.
    Under autocast the matrix products run in its dtype; softmax, loss and the weight's gradient in float32.

    Args:
        hidden_ND: hidden states, floating point.
        weight_VD: one row a token.
        targets_N: int64 ids; those equal to ``ignore_index`` count nothing.
        ignore_index: the target that is not counted.
        chunk: rows at once; by default as many as make 8 MiB of logits, but 128 at least.
        z_loss: weight of the squared log-partition, which keeps the logits from drifting.

    Returns:
        A scalar in nats (float32, or float64 for float64 inputs).

    Raises:
        RuntimeError: on a second backward pass through one call: its gradients are made once and given away.

    >>> hidden_ND, weight_VD = torch.eye(2, 3), torch.zeros(4, 3, requires_grad=True)
    >>> loss = chunked_cross_entropy(hidden_ND, weight_VD, torch.tensor([1, 2]))
    >>> round(loss.item(), 4)  # 2 log 4
    2.7726
    >>> loss.backward()
    >>> weight_VD.grad[:, 0]  # softmax less the target
    tensor([ 0.2500, -0.7500,  0.2500,  0.2500])
    """
    _check_shapes(hidden_ND, weight_VD, targets_N)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, ignore_index, chunk, z_loss
    )
    return loss


@torch.no_grad()
def chunked_token_losses(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Each target's loss, and whether it was the first choice; for evaluation, without gradients.

    Returns:
        ``nats_N`` (float32, or float64 for float64 inputs; 0 where ignored) and ``correct_N`` (bool; every
        other logit is below the target's, so ties count against it; false where ignored).

    >>> nats_N, correct_N = chunked_token_losses(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    >>> nats_N, correct_N
    (tensor([0.3133, 1.3133]), tensor([ True, False]))
    """
    _check_shapes(hidden_ND, weight_VD, targets_N)
    dtype, wide = _dtypes(hidden_ND)
    nats_N = torch.empty(len(targets_N), dtype=wide, device=hidden_ND.device)
    correct_N = torch.empty(len(targets_N), dtype=torch.bool, device=hidden_ND.device)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        weight_DV = weight_VD.to(dtype).T
        for rows in _chunks(len(targets_N), chunk or _default_chunk(weight_VD)):
            counted_C = targets_N[rows] != ignore_index
            logits_CV = (hidden_ND[rows].to(dtype) @ weight_DV).to(wide)
            hit_C = logits_CV.gather(1, targets_N[rows].where(counted_C, 0)[:, None])[:, 0]
            correct_N[rows] = ((logits_CV >= hit_C[:, None]).sum(1) == 1) & counted_C
            nats_N[rows] = (logits_CV.logsumexp(1) - hit_C).where(counted_C, 0)
    return nats_N, correct_N


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and both gradients, a chunk of rows at a time; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        ignore_index: int,
        chunk: int | None,
        z_loss: float,
    ) -> Tensor:
        dtype, wide = _dtypes(hidden_ND)
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        # Summed over many chunks, the weight's gradient is held in the wide dtype until the end.
        grad_VD = torch.zeros_like(weight_VD, dtype=wide) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=wide, device=hidden_ND.device)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            for rows in _chunks(len(targets_N), chunk or _default_chunk(weight_VD)):
                counted_C1 = (targets_N[rows] != ignore_index)[:, None]
                targets_C1 = targets_N[rows, None].where(counted_C1, 0)
                hidden_CD = hidden_ND[rows].to(dtype)
                logits_CV = (hidden_CD @ weight.T).to(wide)
                hit_C1 = logits_CV.gather(1, targets_C1)
                top_C1 = logits_CV.amax(1, keepdim=True)
                p_CV = (
                    torch.softmax(logits_CV, 1, out=logits_CV) if logits_CV.is_cpu else logits_CV.softmax(1)
                )
                # The largest probability is 1/sum(exp(logits - top)) and at least 1/V: its log is safe.
                log_z_C1 = top_C1 - p_CV.amax(1, keepdim=True).log()
                nats_C1 = log_z_C1 - hit_C1
                if z_loss:
                    nats_C1 = nats_C1 + z_loss * log_z_C1.square()
                    p_CV *= 1 + 2 * z_loss * log_z_C1
                loss += nats_C1.where(counted_C1, 0).sum()
                if grad_ND is None and grad_VD is None:
                    continue
                p_CV.scatter_add_(1, targets_C1, p_CV.new_full((), -1).expand_as(targets_C1))
                dlogits_CV = p_CV.to(dtype)
                if grad_ND is not None:
                    grad_ND[rows] = (dlogits_CV @ weight).where(counted_C1, 0)
                if grad_VD is not None:
                    counted_CD = hidden_CD.where(counted_C1, 0)
                    if dtype == wide:
                        grad_VD.addmm_(dlogits_CV.T, counted_CD)
                    else:
                        grad_VD += dlogits_CV.T @ counted_CD
        ctx.gradients = grad_ND, None if grad_VD is None else grad_VD.to(weight_VD.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "chunked_cross_entropy was differentiated twice: its gradients are made in the forward pass and "
                "given away by the first backward; call it again, or use cross_entropy on whole logits"
            )
        grad_ND, grad_VD = ctx.gradients
        ctx.gradients = None
        for gradient in (grad_ND, grad_VD):
            if gradient is not None:
                gradient.mul_(upstream)
        return grad_ND, grad_VD, None, None, None, None


def _dtypes(hidden: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Dtype of the matrix products (autocast's, if on), and of softmax and loss."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if hidden.dtype == torch.float64:
        dtype = torch.float64  # autocast leaves float64 alone
    return dtype, torch.promote_types(dtype, torch.float32)


def _default_chunk(weight_VD: Tensor) -> int:
    return max(128, CHUNK_BYTES // (4 * len(weight_VD)))


def _chunks(n: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def _check_shapes(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> None:
    if (
        hidden_ND.ndim != 2
        or weight_VD.ndim != 2
        or hidden_ND.shape[1] != weight_VD.shape[1]
        or targets_N.shape != hidden_ND.shape[:1]
    ):
        raise ValueError(
            "expected hidden (N, D), weight (V, D) and targets (N,); got "
            f"{tuple(hidden_ND.shape)}, {tuple(weight_VD.shape)} and {tuple(targets_N.shape)}"
        )
