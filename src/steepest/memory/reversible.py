"""Reversible coupling: two streams from which every layer's input can be rebuilt, so that none need be held.

    forward     (x, y) -> (y, z),      z = x + [f(y)]
    inverse     (y, z) -> (x, y),      x = z - [f(y)]
    gradient    dx = dz,      dy' = dy + J_f(y)^T dz,      dw = (df/dw)^T dz

Both streams start at the input, the layers f are attention, mlp, attention, mlp ..., and the mean of the last
pair is the output. Only that last pair is held. The backward pass undoes one coupling at a time: it computes
f(y) again, this time with its graph, takes it off z, and differentiates it.

**Exact.** In floating point (x + d) - d is not x, and the error grows with depth. Here the brackets round every
increment to a grid 2^-k, as they do the input. Sums of grid points below 2^r in size are again grid points and
exactly representable when r + k is the precision (24 bits in float32, 53 in float64), so that adding and
subtracting lose nothing: with r = 8 the grid of float32 is 2^-16, and inputs come back bit for bit at any depth,
whatever precision f computes in. The streams are float32 at least. The gradient passes the rounding unchanged.

**Guarded.** Beyond 2^r the sums round after all. So a checksum of the first pair is kept, and the last pair rebuilt
must have it: one bit lost anywhere on the way down is noticed, and ``ReconstructionError`` raised. Whoever trains
then calls ``Grid.coarsen`` and repeats the step.

f must give the same result twice: same threads, same kernels, same random numbers. Generators and autocast are
put back to what they were.

Sources: A. Gomez et al., "The Reversible Residual Network", https://arxiv.org/abs/1707.04585; N. Kitaev et al.,
"Reformer", https://arxiv.org/abs/2001.04451. Fixed-point streams: D. Maclaurin et al., "Gradient-based
Hyperparameter Optimization through Reversible Learning", https://arxiv.org/abs/1502.03492.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from steepest.errors import TrainingError

Layer = Callable[[Tensor], Tensor]

RANGE_BITS = 8  # streams below 256
COARSEST = 20  # range bits; the grid of float32 is 1/16 by then
COARSEN_BITS = 4  # at a time


class ReconstructionError(TrainingError):
    """The first pair of streams did not come back bit for bit: the gradient would have been wrong."""


_OUTGREW = (
    "reversible streams did not come back bit for bit: they outgrew the grid's range of {}, or a layer is not "
    "deterministic; call coarsen() on the grid and repeat the step"
)


class Grid(nn.Module):
    """The grid that increments are rounded to; saved with the model, for it is part of the function.

    ``range_bits`` r says how large the streams may grow, 2^r; the grid is then 2^(r - 24) in float32.
    ``eager`` looks at the size of every stream already in the forward pass, before any gradient is made; for
    steps whose backward pass cannot be repeated.

    >>> grid = Grid()
    >>> grid.spacing(torch.float32) == 2**-16
    True
    >>> grid.round(torch.tensor(0.1)).item() * 2**16
    6554.0
    """

    def __init__(self, range_bits: int = RANGE_BITS) -> None:
        super().__init__()
        self.range_bits = range_bits
        self.eager = False

    def spacing(self, dtype: torch.dtype) -> float:
        """Distance of two grid points, a power of two."""
        precision = 53 if dtype == torch.float64 else 24
        return 2.0 ** (self.range_bits - precision)

    def round(self, x: Tensor) -> Tensor:
        """Nearest grid point; differentiated as if it were ``x`` itself."""
        # The correction is exact, and so is the sum: see the tests.
        return x + self.steps(x).mul_(self.spacing(x.dtype)).sub_(x.detach())

    def steps(self, x: Tensor) -> Tensor:
        """Nearest grid point, as a whole number of spacings."""
        return x.detach().mul(1 / self.spacing(x.dtype)).round_()

    def coarsen(self) -> None:
        """Let the streams grow 16 times larger, at 16 times the spacing; a ``TrainingError`` at the end."""
        if self.range_bits + COARSEN_BITS > COARSEST:
            raise TrainingError(
                f"reversible streams did not come back bit for bit even with room up to 2^{self.range_bits}: either "
                "training diverges (lower the learning rate) or a layer is not deterministic (the same input, thread "
                'count and random state must give the same output); coupling "residual" needs neither'
            )
        self.range_bits += COARSEN_BITS

    def get_extra_state(self) -> Tensor:
        """What a checkpoint holds of it."""
        return torch.tensor(self.range_bits)

    def set_extra_state(self, state: Tensor) -> None:
        """Put it back."""
        self.range_bits = int(state)


@_disable_dynamo  # a whole model compiled around it would compile f differently in the two passes
def reversible(
    layers: Sequence[Layer],
    x: Tensor,
    *,
    grid: Grid,
    parameters: Sequence[Sequence[Tensor]] | None = None,
    invert: bool = True,
    random: bool = True,
    same_graph: bool = False,
) -> Tensor:
    """Run layers as couplings of two streams that both start at ``x``; the mean of the last pair is returned.

    Args:
        layers: the increments f, each from a tensor to one of the same shape.
        x: input, floating point; the streams are float32 at least, what a layer gets has this dtype.
        grid: what increments are rounded to.
        parameters: those that each layer uses; ``layer.parameters()`` if ``None``.
        invert: hold the last pair only and rebuild the rest; otherwise ordinary autograd through the same
            function, with the same gradients bit for bit.
        random: whether layers draw random numbers, whose generators' states are then kept (5 kB a layer on a CPU).
        same_graph: run the forward pass with gradients on, as the backward pass will; compiled layers need
            it, for the kernels compiled without gradients round differently.

    Raises:
        ReconstructionError: in the backward pass, if a stream outgrew the grid.

    >>> layers = [nn.Linear(4, 4) for _ in range(6)]
    >>> x = torch.randn(2, 4, requires_grad=True)
    >>> rebuilt, = torch.autograd.grad(reversible(layers, x, grid=Grid()).sum(), x)
    >>> stored, = torch.autograd.grad(reversible(layers, x, grid=Grid(), invert=False).sum(), x)
    >>> torch.equal(rebuilt, stored)
    True
    """
    if parameters is None:
        parameters = [tuple(layer.parameters()) if isinstance(layer, nn.Module) else () for layer in layers]
    start = grid.round(x.to(torch.promote_types(x.dtype, torch.float32)))
    # Two names in the graph: gradients are then summed in the same order whether stored or rebuilt.
    a, b = start, start.view_as(start)
    if invert and torch.is_grad_enabled():
        chain = _Chain(grid, x.dtype, random, same_graph, _checksum(start))
        for index, (layer, used) in enumerate(zip(layers, parameters, strict=True)):
            trained = [parameter for parameter in used if parameter.requires_grad]
            a, b = _Coupling.apply(chain, index, layer, a, b, *trained)  # type: ignore[no-untyped-call]
    else:
        for layer in layers:
            a, b = b, a + grid.round(layer(b.to(x.dtype)).to(b.dtype))
    return ((a + b) * 0.5).to(x.dtype)


class _Chain:
    """What the couplings of one forward pass share: how they run, and the one live pair of streams."""

    def __init__(
        self, grid: Grid, dtype: torch.dtype, random: bool, same_graph: bool, checksum: Tensor
    ) -> None:
        self.grid = Grid(grid.range_bits)  # as it is now: it may be coarsened before the backward pass
        self.dtype, self.random, self.same_graph, self.checksum = dtype, random, same_graph, checksum
        self.pair: tuple[Tensor, Tensor] | None = None
        self.eager = grid.eager

    def increment(self, layer: Layer, y: Tensor) -> Tensor:
        return layer(y.to(self.dtype)).to(y.dtype)

    def shift(self, stream: Tensor, increment: Tensor, sign: int) -> Tensor:
        """The stream plus or minus the rounded increment: both exact, a power of two times a whole number."""
        return torch.add(stream, self.grid.steps(increment), alpha=sign * self.grid.spacing(stream.dtype))

    def take(self) -> tuple[Tensor, Tensor]:
        if self.pair is None:
            raise RuntimeError(
                "a reversible stack was differentiated twice: its streams are used up by the first backward "
                "pass; run it again, or with invert=False"
            )
        pair, self.pair = self.pair, None
        return pair

    def check_range(self, *streams: Tensor) -> None:
        """Raise if a stream is too large for sums to be exact."""
        for stream in streams:
            if isinstance(stream, FakeTensor):
                continue
            if 2.0**self.grid.range_bits <= stream.abs().amax() < torch.inf:
                raise ReconstructionError(_OUTGREW.format(2**self.grid.range_bits))

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise unless both streams are the input again, bit for bit."""
        if isinstance(x, FakeTensor):
            return
        same = (_checksum(x) == self.checksum) & (_checksum(y) == self.checksum)
        # What is not finite cannot come back; the loss and gradient norm say so themselves.
        if not same and (x.isfinite().all() & y.isfinite().all()):
            raise ReconstructionError(_OUTGREW.format(2**self.grid.range_bits))


class _Coupling(torch.autograd.Function):
    """(x, y) -> (y, x + [f(y)]); holds nothing but the chain, and hands the rebuilt pair down by it."""

    @staticmethod
    def forward(
        ctx: Any, chain: _Chain, index: int, layer: Layer, x: Tensor, y: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = y.device.type
        ctx.chain, ctx.index, ctx.layer, ctx.parameters = chain, index, layer, parameters
        ctx.autocast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.random = _random_states(y.device) if chain.random else None
        with (
            _uncached_autocast(device, *ctx.autocast),
            torch.set_grad_enabled(chain.same_graph),
        ):
            increment = chain.increment(layer, y.detach().requires_grad_(chain.same_graph))
        z = chain.shift(x, increment, 1)
        if chain.eager:
            chain.check_range(y, z)
        # Detached: a pair with a history would hold this node, which holds the pair.
        chain.pair = y.detach(), z.detach()
        return y.view_as(y), z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dz: Tensor) -> tuple[Tensor | None, ...]:
        chain: _Chain = ctx.chain
        y, z = chain.take()
        y.requires_grad_()
        with (
            _restored(ctx.random, y.device),
            _uncached_autocast(y.device.type, *ctx.autocast),
            torch.enable_grad(),
        ):
            increment = chain.increment(ctx.layer, y)
        x, rebuilt_y = chain.shift(z, increment, -1), y.detach()
        del z
        if ctx.index == 0:
            chain.check(x, rebuilt_y)
        else:
            chain.pair = x, rebuilt_y
        del x, rebuilt_y
        if not increment.requires_grad:
            return None, None, None, dz, dy, *(None for _ in ctx.parameters)
        through, *gradients = torch.autograd.grad(increment, (y, *ctx.parameters), dz, allow_unused=True)
        return None, None, None, dz, dy if through is None else dy + through, *gradients


def _checksum(x: Tensor) -> Tensor:
    """Sum of the bits, read as integers."""
    return x.detach().view(torch.int64 if x.dtype == torch.float64 else torch.int32).sum(dtype=torch.int64)


def _uncached_autocast(device: str, dtype: torch.dtype, enabled: bool) -> torch.autocast:
    """Autocast that keeps no cast weights: those made without a graph must not be found where one is needed."""
    return torch.autocast(device, dtype, enabled, cache_enabled=False)


def _random_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state().clone(), own  # an operation, which a memory tracker sees: 5 kB a layer


def _set_random_states(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    if isinstance(states[0], FakeTensor):
        return
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.get_device_module(device).set_rng_state(states[1], device)


@contextmanager
def _restored(states: tuple[Tensor, Tensor | None] | None, device: torch.device) -> Iterator[None]:
    """Generators as they were in the forward pass, and afterwards as they are now."""
    if states is None:
        yield
        return
    now = _random_states(device)
    _set_random_states(states, device)
    try:
        yield
    finally:
        _set_random_states(now, device)
