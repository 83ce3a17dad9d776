"""The optimiser's step inside the backward pass: a gradient is used as soon as it is complete, and forgotten.

    usual        all of g_1 ... g_P,  then w_p <- update(w_p, g_p) for every p      held: every gradient
    in backward  g_P, w_P <- update(w_P, g_P), g_P forgotten;  then g_(P-1) ...     held: one gradient

The update is the same one. What needs all gradients at once is lost: scaling by their joint norm (clipping), adding
those of several micro-batches, and taking back a step that turns out to be an outlier. So it is used only where
nothing is clipped or accumulated, and where memory asks for it. A gradient that is not finite is not applied.

Source: K. Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO),
https://arxiv.org/abs/2306.09782.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from steepest.optim.optimizers import Optimizers


@contextmanager
def updates_in_backward(optimizers: Optimizers) -> Iterator[list[float]]:
    """Inside, every parameter is updated in the backward pass; gives the norms of the gradients as they come.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.fill_(1.0)
    >>> optimizers = Optimizers([
    ...     {"params": [layer.weight], "param_names": ["weight"], "algorithm": "sgd", "role": "matrix",
    ...      "lr": 0.5, "base_lr": 0.5, "momentum": 0.0}])
    >>> with updates_in_backward(optimizers) as norms:
    ...     layer(torch.tensor([3.0, 4.0])).sum().backward()
    >>> layer.weight.tolist(), layer.weight.grad, norms
    ([[-0.5, -1.0]], None, [5.0])
    """
    norms: list[float] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(_update(optimizer, norms))
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()


def _update(optimizer: torch.optim.Optimizer, norms: list[float]) -> Callable[[Tensor], None]:
    def arrived(parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        norms.append(torch.linalg.vector_norm(parameter.grad).item())
        if math.isfinite(norms[-1]):
            optimizer.step()  # of this parameter alone: no other has a gradient now
        parameter.grad = None

    return arrived
