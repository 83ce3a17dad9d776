r"""Chinchilla's law by variable projection: only the exponents are searched for, the rest is linear.

    minimise over (alpha, beta)   min over E, A, B >= 0 of   sum_i w_i ((L_i - E - A N_i^-alpha - B D_i^-beta) / L_i)^2

Given the exponents the inner problem is non-negative least squares in three unknowns, solved exactly by trying every
set of active columns. What is left is a smooth search in two dimensions, and the condition number falls from 1e11 to
about 10. With ``huber`` the squares become Huber's loss of that threshold, by reweighting (IRLS).

Sources: G. Golub, V. Pereyra, https://doi.org/10.1137/0710036; J. Hoffmann et al., https://arxiv.org/abs/2203.15556
(approach 3); Z. Xu et al., https://arxiv.org/abs/2603.22339 (why this one); P. J. Huber,
https://doi.org/10.1214/aoms/1177703732.
"""

from itertools import combinations

import numpy as np

from steepest.scaling.laws import Array, ChinchillaLaw
from steepest.scaling.points import Points

RANGE = (0.02, 1.5)  # of an exponent
GRID = 12


def fit_by_projection(
    points: Points, *, weights: Array | None = None, huber: float | None = None, tied: bool = False,
    absolute: bool = False,
) -> ChinchillaLaw:  # fmt: skip
    """The law of least squared error.

    Args:
        points: at least five runs of two sizes (four if ``tied``).
        weights: one a run; none: all the same.
        huber: threshold of Huber's loss on the relative error; none: plain squares.
        tied: one exponent for N and D.
        absolute: squares of the loss's own error; else of the relative one.

    >>> from steepest.scaling.laws import BESIROGLU
    >>> n, d = np.meshgrid([1e8, 4e8, 1e9], [2e9, 1e10, 4e10])
    >>> law = fit_by_projection(Points.of(n.ravel(), d.ravel(), BESIROGLU(n, d).ravel()))
    >>> round(law.floor, 3), round(law.alpha, 3), round(law.beta, 3)
    (1.817, 0.348, 0.366)
    """
    points.need(4 if tied else 5)
    log_n, log_d, loss = np.log(points.n), np.log(points.fresh), points.loss
    center_n, center_d = float(log_n.mean()), float(log_d.mean())
    log_n, log_d = log_n - center_n, log_d - center_d
    given = np.ones_like(loss) if weights is None else np.asarray(weights, np.float64)
    given = given / (1.0 if absolute else loss**2)

    def terms(exponents: Array, weight: Array) -> tuple[float, Array, Array]:
        alpha, beta = np.exp(np.clip(exponents, *np.log(RANGE)))
        columns = np.stack([np.ones_like(loss), np.exp(-alpha * log_n), np.exp(-beta * log_d)], axis=1)
        root = np.sqrt(weight)
        rest, found = nonnegative(columns * root[:, None], loss * root)
        outside = np.abs(exponents - np.clip(exponents, *np.log(RANGE))).sum()
        return rest * (1 + outside) + 1e-12 * outside, found, columns

    def objective(x: Array, weight: Array) -> float:

        return terms(np.repeat(x, 2) if tied else x, weight)[0]

    axis = np.linspace(np.log(0.06), np.log(1.1), GRID)
    starts = axis[:, None] if tied else np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    weight = given
    x = starts[int(np.argmin([objective(start, weight) for start in starts]))]
    from scipy.optimize import minimize

    for _ in range(60 if huber else 1):
        x = minimize(objective, x, args=(weight,), method="Nelder-Mead",
                     options={"xatol": 1e-7, "fatol": 1e-16, "maxiter": 600}).x  # fmt: skip
        both = np.repeat(x, 2) if tied else x
        _, found, columns = terms(both, weight)
        if huber is None:
            break
        error = np.abs(columns @ found - loss) / (1.0 if absolute else loss)
        new = given * np.minimum(1.0, huber / np.maximum(error, 1e-12))
        if np.abs(new / weight - 1).max() < 1e-6:
            break
        weight = new
    alpha, beta = np.exp(np.clip(both, *np.log(RANGE)))
    n0, d0 = float(np.exp(center_n)), float(np.exp(center_d))
    floor, size, data = found.tolist()
    return ChinchillaLaw(floor, size, data, float(alpha), float(beta), n0, d0)


def nonnegative(columns: Array, target: Array) -> tuple[float, Array]:
    """Least squares with every coefficient >= 0, for a few columns: residual sum and coefficients, exactly.

    >>> nonnegative(np.array([[1.0, 0], [0, 1]]), np.array([2.0, -3]))[1].tolist()
    [2.0, 0.0]
    """
    scale = np.linalg.norm(columns, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled = columns / scale
    gram, moment, total = scaled.T @ scaled, scaled.T @ target, float(target @ target)
    best, found = total, np.zeros(columns.shape[1])
    for size in range(columns.shape[1], 0, -1):
        for active in combinations(range(columns.shape[1]), size):
            chosen = list(active)
            try:
                part = np.linalg.solve(gram[np.ix_(chosen, chosen)], moment[chosen])
            except np.linalg.LinAlgError:
                continue
            if (part < 0).any():
                continue
            whole = np.zeros(columns.shape[1])
            whole[chosen] = part
            rest = float(((scaled @ whole - target) ** 2).sum())
            if rest < best:
                best, found = rest, whole
        if best < total and size == columns.shape[1]:
            break  # the free solution is allowed, so it is the best
    return best, found / scale
