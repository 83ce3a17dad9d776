r"""Gradient clipping: bound the norm of all gradients taken together.

.. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert_2 + 10^{-6}}\right),
          \qquad \lVert g \rVert_2^2 = \sum_p \lVert g_p \rVert_2^2

The direction stays, the length is at most :math:`c`. Source: Pascanu et al., https://arxiv.org/abs/1211.5063
"""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place so that their joint norm is at most ``max_norm``; return the norm before.

    A norm that is not finite leaves the gradients as they are: scaling by it would spread the NaN to every
    parameter. ``max_norm=0`` only measures. Nothing here waits for the device.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([weight], max_norm=1.0)
    tensor(5.)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    if max_norm > 0 and grads:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        scale = torch.where(norm.isfinite(), scale, torch.ones_like(scale))
        by_device: dict[torch.device, list[Tensor]] = {}
        for grad in grads:
            by_device.setdefault(grad.device, []).append(grad)
        for device, members in by_device.items():
            torch._foreach_mul_(members, scale.to(device))
    return norm
