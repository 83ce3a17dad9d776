r"""The Jacobian of any map between tensors, and how much it stretches.

.. math::
    J_{ij} = \partial f_i / \partial x_j, \qquad
    \text{jvp: } v \mapsto J v \text{ (forward mode)}, \qquad \text{vjp: } u \mapsto J^\top u \text{ (backward mode)}

A small map has its Jacobian written out (``jacobian``), and its singular values by LAPACK. A large one is only
multiplied with. Golub-Kahan bidiagonalisation, which is Lanczos on :math:`J^\top J` without squaring it,

.. math::
    \alpha_k u_k = J v_k - \beta_{k-1} u_{k-1}, \qquad \beta_k v_{k+1} = J^\top u_k - \alpha_k v_k,

builds a bidiagonal B of k rows whose largest and smallest singular values tend to those of J, the largest from below
and the smallest from above. Here :math:`\beta_k` times the last entry of a singular vector of B is the length of what is left
over, and by Weyl's inequality bounds the distance to some singular value of J: it is what convergence is judged by.
Every new vector is made orthogonal to all earlier ones, for rounding would bring old ones back.

Functions must be differentiable in both modes: torch's own operations are, fused attention kernels and hand-written
backward passes are not (a trunk has ``plain=True`` for this).

Sources: G. Golub and W. Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix", 1965; M. Hutchinson,
"A Stochastic Estimator of the Trace", 1989 (the root mean square); f-dangel/curvlinops for the manner of proof: every
product held to the dense matrix in float64.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.errors import ConfigError

Map = Callable[[Tensor], Tensor]

CHECK_EVERY = 8  # steps between two looks at whether values have converged; each looks at all of B
LARGEST_DENSE = 4096  # entries on a side, beyond which a Jacobian is not written out


def jvp(f: Map, x: Tensor, v: Tensor) -> Tensor:
    """The directional derivative ``J v``, a tensor like ``f(x)``.

    >>> jvp(torch.sin, torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.0]))
    tensor([2., 0.])
    """
    _same_shape("v", v, "x", x)
    with (
        warnings.catch_warnings()
    ):  # torch scripts some derivatives at the first call, and says that this is old
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        out: Tensor = torch.func.jvp(f, (x.detach(),), (v,))[1]
    return out.detach()


def vjp(f: Map, x: Tensor, u: Tensor) -> Tensor:
    """The gradient of ``<u, f(x)>``, ``J.T u``, a tensor like ``x``.

    >>> vjp(lambda x: x.sum() * x, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor([4., 1.])
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = f(x)
        _same_shape("u", u, "f(x)", y)
        (out,) = torch.autograd.grad(y, x, u)
    return out


def jacobian(f: Map, x: Tensor) -> Tensor:
    """The whole Jacobian as a matrix, (entries of ``f(x)``, entries of ``x``); row by row, by backward passes.

    Raises:
        ConfigError: if a side has more than 4,096 entries.

    >>> jacobian(lambda x: x**2, torch.tensor([1.0, 3.0]))
    tensor([[2., 0.],
            [0., 6.]])
    """
    y, pull = _linear(f, x.detach())
    if max(x.numel(), y.numel()) > LARGEST_DENSE:
        raise ConfigError(
            f"a Jacobian of {y.numel()} x {x.numel()} is too large to write out (at most {LARGEST_DENSE} on a side): "
            "use extreme_singular_values, or a smaller input"
        )
    rows = torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(-1, *y.shape)
    return torch.stack([pull(row).flatten() for row in rows])


def singular_values(f: Map, x: Tensor) -> Tensor:
    """All singular values, the largest first, from the whole Jacobian.

    >>> singular_values(lambda x: torch.stack([3 * x[0] + 4 * x[1]]), torch.zeros(2))
    tensor([5.])
    """
    values: Tensor = torch.linalg.svdvals(jacobian(f, x))
    return values


def rms_singular_value(
    f: Map, x: Tensor, *, probes: int = 16, generator: torch.Generator | None = None
) -> float:
    r"""Estimate of the root mean square singular value, :math:`\lVert J \rVert_F / \sqrt n` with n the entries of ``x``.

    :math:`E \lVert J v \rVert^2 = \lVert J \rVert_F^2` for random signs v. The relative error falls as :math:`1/\sqrt{\text{probes}}`.

    >>> rms_singular_value(lambda x: 2 * x, torch.zeros(10), probes=1)
    2.0
    """
    total = 0.0
    for _ in range(probes):
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device).to(x.dtype).mul_(2).sub_(1)
        total += float(jvp(f, x, signs).double().square().sum().item())
    return math.sqrt(total / probes / x.numel())


@dataclass(frozen=True)
class Extremes:
    """Largest and smallest singular value of a map, and how far from true each may be.

    Attributes:
        largest: never above the true one.
        smallest: never below the true one, of the ``min(inputs, outputs)`` there are.
        largest_error: relative, an estimate that is an upper bound on the distance to the nearest singular value.
        smallest_error: the same for the smallest.
        steps: products with J and its transpose that were taken, each.
    """

    largest: float
    smallest: float
    largest_error: float
    smallest_error: float
    steps: int


def extreme_singular_values(
    f: Map,
    x: Tensor,
    *,
    steps: int = 64,
    tolerance: float = 1e-4,
    smallest: bool = True,
    generator: torch.Generator | None = None,
) -> Extremes:
    """Largest and smallest singular value by Golub-Kahan bidiagonalisation, without the matrix.

    Args:
        steps: at most; the smallest side of the map is always enough.
        tolerance: relative error at which to stop.
        smallest: also wait for the smallest to converge; it takes far longer where values crowd.
        generator: draws the first direction.

    >>> diagonal = torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
    >>> found = extreme_singular_values(lambda x: diagonal * x, torch.zeros(3, dtype=torch.float64))
    >>> round(found.largest, 6), round(found.smallest, 6)
    (3.0, 0.5)
    """
    x = x.detach()
    y, pull = _linear(f, x)
    n, m = x.numel(), y.numel()
    wide = m < n  # begin on the shorter side, so that B has no zero of its own

    def down(v: Tensor) -> Tensor:
        return pull(v.view(y.shape).to(y.dtype)).flatten().double()

    def forward(v: Tensor) -> Tensor:
        return jvp(f, x, v.view(x.shape).to(x.dtype)).flatten().double()

    there, back, side = (down, forward, m) if wide else (forward, down, n)
    v = torch.randn(side, generator=generator, dtype=torch.float64, device=x.device)
    v /= v.norm()
    rights: list[Tensor] = [v]
    lefts: list[Tensor] = []
    alphas: list[float] = []
    betas: list[float] = []
    largest = smallest_value = largest_error = smallest_error = 0.0
    for step in range(1, min(steps, side) + 1):
        u = _orthogonal(there(rights[-1]), lefts)
        alpha = float(u.norm())
        alphas.append(alpha)
        if not math.isfinite(alpha):
            return Extremes(math.inf, math.nan, math.nan, math.nan, step)
        if alpha > 0:
            u = u / alpha
        lefts.append(u)
        v = _orthogonal(back(u), rights)
        beta = float(v.norm())
        exhausted = beta <= 1e-14 * max(alphas) or alpha <= 1e-14 * max(alphas)
        last = exhausted or step == min(steps, side)
        if last or step <= CHECK_EVERY or step % CHECK_EVERY == 0:
            values, last_row = _bidiagonal(alphas, betas)
            largest, smallest_value = float(values[0]), float(values[-1])
            largest_error = beta * float(last_row[0]) / max(largest, 1e-300)
            smallest_error = beta * float(last_row[-1]) / max(smallest_value, 1e-300)
            if last or (largest_error < tolerance and (not smallest or smallest_error < tolerance)):
                break
        betas.append(beta)
        rights.append(v / beta)
    return Extremes(largest, smallest_value, largest_error, smallest_error, len(alphas))


def _linear(f: Map, x: Tensor) -> tuple[Tensor, Map]:
    """``f(x)`` and the map ``u -> J.T u``, with the forward pass made once."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = f(x)

    def pull(u: Tensor) -> Tensor:
        (out,) = torch.autograd.grad(y, x, u, retain_graph=True)
        return out

    return y.detach(), pull


def _orthogonal(x: Tensor, basis: list[Tensor]) -> Tensor:
    """What is left of ``x`` beside a basis; twice is enough (Kahan and Parlett)."""
    if basis:
        matrix = torch.stack(basis)
        for _ in range(2):
            x = x - matrix.T @ (matrix @ x)
    return x


def _bidiagonal(alphas: list[float], betas: list[float]) -> tuple[Tensor, Tensor]:
    """Singular values of B (alphas on the diagonal, betas above it), and the last entries of its left vectors."""
    b = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    if betas:
        b += torch.diag(torch.tensor(betas, dtype=torch.float64), 1)
    left, values, _ = torch.linalg.svd(b)
    return values, left[-1].abs()


def _same_shape(name: str, x: Tensor, other: str, like: Tensor) -> None:
    if x.shape != like.shape:
        raise ConfigError(f"{name} must have the shape of {other}, {tuple(like.shape)}; got {tuple(x.shape)}")
