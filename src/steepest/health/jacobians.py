r"""What each block does to a small change of its input, and what all of them together do along the depth.

.. math::
    J_i = \partial h_i / \partial h_{i-1}, \qquad P_i = J_i \cdots J_1 = \partial h_i / \partial h_0

Singular values of :math:`J_i` say by how much block i stretches or shrinks a direction of the stream, those of :math:`P_i`
how much of it is left after i blocks. Near 1 everywhere, gradients pass; where the product's grow or fall by orders
of magnitude with i, they explode or vanish. A residual block is :math:`I + \ldots`, which is why it works.

A map of one sequence has T * D inputs; up to ``DENSE`` its Jacobian is written out and every singular value known,
beyond that the extremes come from Golub-Kahan and the root mean square from random probes. Differentiated by torch's
own operations throughout (``plain``), in the dtype of the weights: use ``trunk.double()`` for figures to rely on.

Reversible coupling has pairs: a block maps (x, y) to (x + a(y), y + m(x + a(y))), and its Jacobian is that of the pair.

Shapes: T positions, D width. Source: J. Pennington et al., "Resurrecting the sigmoid", https://arxiv.org/abs/1711.04735.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.autograd import extreme_singular_values, jacobian, rms_singular_value
from steepest.model import Block, Transformer

DENSE = 512  # inputs of a map up to which its whole Jacobian is made
LANCZOS_STEPS, PROBES = 48, 8

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one Jacobian.

    Attributes:
        largest: the largest, or a lower bound on it.
        smallest: the smallest, or an upper bound on it.
        rms: the root mean square of all.
        error: how far, relatively, the largest may still be off; 0 if all are known.
        values: all of them, the largest first, where the Jacobian was written out.
    """

    largest: float
    smallest: float
    rms: float
    error: float = 0.0
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Depth:
    """One block: its own Jacobian, and the product of all up to and with it."""

    block: Spectrum
    product: Spectrum


def depth_spectra(
    trunk: Transformer, ids_T: Tensor, *, dense: int = DENSE, steps: int = LANCZOS_STEPS, seed: int = 0
) -> list[Depth]:
    """Spectra of every block's Jacobian and of their product, at the stream that a sequence makes.

    Args:
        ids_T: token ids of one sequence.
        dense: inputs of a map up to which all singular values are found.
        steps: products with a Jacobian for the extremes of a larger one.
        seed: of the random directions.

    >>> from steepest.model import TransformerConfig
    >>> trunk = Transformer(TransformerConfig(vocab_size=9, depth=2, width=32), torch.Generator().manual_seed(0))
    >>> [round(one.product.largest, 4) for one in depth_spectra(trunk, torch.arange(4))]  # at the start: the identity
    [1.0, 1.0]
    """
    maps, x = block_maps(trunk, ids_T)
    was_training = trunk.training
    trunk.eval()
    generator = torch.Generator(x.device).manual_seed(seed)
    try:
        if x.numel() <= dense:
            return _dense(maps, x)
        found = []
        for index, one in enumerate(maps):
            block = _estimated(one, x if index == 0 else chained(maps[:index])(x).detach(), steps, generator)
            product = block if index == 0 else _estimated(chained(maps[: index + 1]), x, steps, generator)
            found.append(Depth(block, product))
        return found
    finally:
        trunk.train(was_training)


def block_maps(trunk: Transformer, ids_T: Tensor) -> tuple[list[Map], Tensor]:
    """The blocks as maps of the stream of one sequence, and the stream they start from.

    The stream is (T, D), or (2, T, D) where the coupling is reversible.
    """
    with torch.no_grad():
        start = trunk.embedding(ids_T).detach()
    rotation = trunk.rotation(torch.arange(len(ids_T), device=ids_T.device), start.dtype)

    def residual(block: Block) -> Map:
        def run(stream_TD: Tensor) -> Tensor:
            out: Tensor = block(stream_TD[None], rotation, plain=True)
            return out[0]

        return run

    def reversible(block: Block) -> Map:
        def run(
            pair_2TD: Tensor,
        ) -> Tensor:  # the rounding is left out: its derivative is that of the identity
            x, y = pair_2TD
            x = x + block.attend(y[None], rotation, plain=True)[0]
            return torch.stack([x, y + block.feed(x[None], plain=True)[0]])

        return run

    blocks = [block for block in trunk.blocks if isinstance(block, Block)]
    if trunk.grid is None:
        return [residual(block) for block in blocks], start
    return [reversible(block) for block in blocks], torch.stack([start, start])


def chained(maps: list[Map]) -> Map:
    """One map after the other.

    >>> chained([torch.sqrt, torch.neg])(torch.tensor(4.0))
    tensor(-2.)
    """

    def run(x: Tensor) -> Tensor:
        for one in maps:
            x = one(x)
        return x

    return run


def _dense(maps: list[Map], x: Tensor) -> list[Depth]:
    product = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
    found = []
    for one in maps:
        own = jacobian(one, x)
        product = own @ product
        found.append(Depth(_known(own), _known(product)))
        with torch.no_grad():
            x = one(x)
    return found


def _known(matrix: Tensor) -> Spectrum:
    if not matrix.isfinite().all():
        return Spectrum(float("inf"), float("nan"), float("inf"))
    values = torch.linalg.svdvals(matrix).double()
    rms = float(values.square().mean().sqrt())
    return Spectrum(float(values[0]), float(values[-1]), rms, 0.0, tuple(values.tolist()))


def _estimated(one: Map, x: Tensor, steps: int, generator: torch.Generator) -> Spectrum:
    found = extreme_singular_values(one, x, steps=steps, generator=generator)
    rms = rms_singular_value(one, x, probes=PROBES, generator=generator)
    return Spectrum(found.largest, found.smallest, rms, found.largest_error)
