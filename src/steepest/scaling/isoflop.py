r"""IsoFLOP minima and the compute frontier: where, at a given compute, the loss is least.

At fixed C = 6 N D a parabola in ln N is laid through the losses of each budget, and its vertex is N*(C). Then

    ln N* = ln G + a ln C,       D* = C / (6 N*),       L*(C) = E + c C^-gamma

The vertex of a parabola is biased where the true curve is not one: the window is kept to within a factor of 6 around
the lowest loss, and a vertex outside the sampled sizes is dropped. On Chinchilla's law a = beta / (alpha + beta).

Sources: J. Hoffmann et al., https://arxiv.org/abs/2203.15556 (approach 2); its biases: Z. Xu et al.,
https://arxiv.org/abs/2603.22339; T. Porian et al., https://arxiv.org/abs/2406.19146.
"""

from dataclasses import dataclass

import numpy as np

from steepest.errors import DataError
from steepest.scaling.laws import FLOPS, Array
from steepest.scaling.points import Points
from steepest.scaling.variable_projection import nonnegative

WINDOW = np.log(6.0)
SAME_BUDGET = 0.1  # of ln C: runs closer than this are one budget


@dataclass(frozen=True)
class Minimum:
    """The best size at one compute."""

    compute: float
    n: float
    d: float
    loss: float


@dataclass(frozen=True)
class PowerLaw:
    """y = scale (x / x0)^exponent."""

    scale: float
    exponent: float
    x0: float

    def __call__(self, x: float) -> float:
        """y at x."""
        return float(self.scale * (x / self.x0) ** self.exponent)


@dataclass(frozen=True)
class Frontier:
    """Least loss against compute: floor + reach (C / c0)^-gamma."""

    floor: float
    reach: float
    gamma: float
    c0: float

    def __call__(self, compute: float) -> float:
        """Least loss at this compute."""
        return float(self.floor + self.reach * (compute / self.c0) ** -self.gamma)


def isoflop_minima(points: Points) -> list[Minimum]:
    """The vertex of each budget's parabola; `DataError` if no budget has three sizes around its minimum.

    >>> from steepest.scaling.laws import BESIROGLU
    >>> n = np.geomspace(2e8, 3e9, 9)
    >>> found = isoflop_minima(Points.of(n, 1e21 / 6 / n, BESIROGLU(n, 1e21 / 6 / n)))[0]
    >>> bool(abs(np.log(found.n / BESIROGLU.optimal(1e21)[0])) < 0.05)
    True
    """
    log_c, log_n = np.log(points.compute), np.log(points.n)
    order = np.argsort(log_c)
    cuts = np.flatnonzero(np.diff(log_c[order]) > SAME_BUDGET) + 1
    minima = []
    for group in np.split(order, cuts):
        best = group[np.argmin(points.loss[group])]
        near = group[np.abs(log_n[group] - log_n[best]) <= WINDOW]
        if np.unique(log_n[near]).size < 3:
            continue
        middle = log_n[best]
        square, line, level = np.polyfit(log_n[near] - middle, points.loss[near], 2)
        if square <= 0:
            continue
        vertex = -line / (2 * square)
        if not log_n[near].min() <= middle + vertex <= log_n[near].max():
            continue
        compute, n = float(np.exp(log_c[near].mean())), float(np.exp(middle + vertex))
        minima.append(Minimum(compute, n, compute / FLOPS / n, float(level - square * vertex**2)))
    if not minima:
        raise DataError(
            "an IsoFLOP minimum needs one compute at which at least 3 sizes were trained, the best of them neither "
            "the smallest nor the largest; no budget of this table has that: use the fitted law's optimum instead"
        )
    return minima


def frontier_size(minima: list[Minimum]) -> PowerLaw:
    """N* as a power of compute, by least squares on logarithms; needs two budgets."""
    if len(minima) < 2:
        raise DataError(f"an exponent needs IsoFLOP minima at 2 budgets or more; got {len(minima)}")
    x = np.log([one.compute for one in minima])
    y = np.log([one.n for one in minima])
    exponent, level = np.polyfit(x - x.mean(), y, 1)
    return PowerLaw(float(np.exp(level)), float(exponent), float(np.exp(x.mean())))


def compute_frontier(points: Points) -> tuple[Points, Frontier | None]:
    """The runs that no cheaper run beats, and floor + reach C^-gamma through them (none below four such runs).

    >>> n = 1e7 * 2.0 ** np.arange(8)
    >>> runs = Points.of(n, 20 * n, 2 + 1.5 * 4.0 ** (-0.2 * np.arange(8)))
    >>> best, law = compute_frontier(runs)
    >>> len(best), round(law.floor, 3), round(law.gamma, 3)
    (8, 2.0, 0.2)
    """
    order = np.lexsort((points.loss, points.compute))
    lowest = np.minimum.accumulate(points.loss[order])
    first = np.concatenate([[True], points.loss[order][1:] < lowest[:-1]])
    best = points.take(order[first])
    if len(best) < 4:
        return best, None
    c0 = float(np.exp(np.log(best.compute).mean()))
    x = np.log(best.compute / c0)

    def solve(log_gamma: float) -> tuple[float, Array]:

        columns = np.stack([np.ones_like(x), np.exp(-np.exp(log_gamma) * x)], axis=1) / best.loss[:, None]
        return nonnegative(columns, np.ones_like(x))

    grid = np.log(np.geomspace(0.01, 1.0, 60))
    start = int(np.argmin([solve(g)[0] for g in grid]))
    around = (grid[max(start - 1, 0)], grid[min(start + 1, grid.size - 1)])
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda g: solve(g)[0], bounds=around, method="bounded", options={"xatol": 1e-8}).x
    floor, reach = solve(found)[1].tolist()
    return best, Frontier(floor, reach, float(np.exp(found)), c0)
