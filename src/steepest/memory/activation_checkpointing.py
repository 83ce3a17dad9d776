"""Activation checkpointing: keep a block's input only, and compute the rest again when its gradient is due.

    stored      x_0 -> [all of block 1] -> x_1 -> [all of block 2] -> x_2 ...      held: every activation
    recomputed  x_0 ->                    x_1 ->                    x_2 ...        held: the inputs x_i

A recomputed block costs one more forward pass of it, about a third of a step, and holds one residual stream in
place of about twenty-three. So the fewest blocks that make the step fit are recomputed, and these are the first
ones: their turn comes last in the backward pass, when the stored blocks above them have been freed already, so
that the room for one recomputed block is never needed on top of all the stored ones.

Source: T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.
"""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from steepest.errors import ConfigError

Layer = Callable[[Tensor], Tensor]


def run_layers(layers: Sequence[Layer], x: Tensor, *, recompute: int = 0, random: bool = True) -> Tensor:
    """Apply layers one after the other; the first ``recompute`` of them keep their input only.

    Value and gradient are those of the plain chain, bit for bit.

    Args:
        layers: each maps a tensor to the next layer's input.
        x: input of the first.
        recompute: how many are computed again in the backward pass, 0 to ``len(layers)``.
        random: whether layers draw random numbers (dropout), whose generators must then be put back.

    Raises:
        ConfigError: if there are fewer layers than are to be recomputed.

    >>> import torch
    >>> x = torch.tensor([0.5], requires_grad=True)
    >>> y = run_layers([torch.sin, torch.exp], x, recompute=1)
    >>> y.backward()
    >>> bool(x.grad == torch.cos(x) * torch.exp(torch.sin(x)))
    True
    """
    if not 0 <= recompute <= len(layers):
        raise ConfigError(
            f"{recompute} blocks cannot be recomputed of a model that has {len(layers)}: give 0 to {len(layers)}"
        )
    for index, layer in enumerate(layers):
        if index < recompute:
            x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=random)
        else:
            x = layer(x)
    return x
