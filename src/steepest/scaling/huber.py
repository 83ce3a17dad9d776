r"""Chinchilla's law as the paper fits it: Huber's loss on the logarithm, by log-sum-exp and L-BFGS.

    minimise  sum_i Huber_delta( LSE(a - alpha ln N_i, b - beta ln D_i, e) - ln L_i ),      delta = 1e-3
    A = exp(a), B = exp(b), E = exp(e),    LSE(x, y, z) = ln(exp x + exp y + exp z)

The objective is of the order 1e-3 and L-BFGS stops at a decrease of 1e-9 *of it*, far from the minimum: published
constants came out wrong for this reason. Here it is multiplied by 1000, has an exact gradient, its columns are
centred, and it starts where variable projection ends: one start of a few milliseconds instead of a grid of 4,500.

Sources: J. Hoffmann et al., https://arxiv.org/abs/2203.15556; T. Besiroglu et al., https://arxiv.org/abs/2404.10102.
"""

import numpy as np

from steepest.scaling.laws import Array, ChinchillaLaw
from steepest.scaling.points import Points
from steepest.scaling.variable_projection import fit_by_projection

DELTA = 1e-3
SCALE = 1e3
STARTS = ((0.35, 0.35),)  # besides the end of the projection: a guess that owes nothing to the data


def fit_huber(points: Points, *, delta: float = DELTA) -> ChinchillaLaw:
    """The law of least Huber loss on ln L.

    >>> from steepest.scaling.laws import BESIROGLU
    >>> n, d = np.meshgrid([1e8, 4e8, 1e9], [2e9, 1e10, 4e10])
    >>> law = fit_huber(Points.of(n.ravel(), d.ravel(), BESIROGLU(n, d).ravel()))
    >>> round(law.floor, 3), round(law.alpha, 3), round(law.beta, 3)
    (1.817, 0.348, 0.366)
    """
    points.need(5)
    n0, d0 = (float(np.exp(np.log(values).mean())) for values in (points.n, points.fresh))
    x, y, target = np.log(points.n / n0), np.log(points.fresh / d0), np.log(points.loss)

    def objective(at: Array) -> tuple[float, Array]:

        value, gradient = log_sum_exp_objective(at, x, y, target, delta)
        return SCALE * value, SCALE * gradient

    first = fit_by_projection(points)
    tiny = 1e-6 * first(n0, d0)
    terms = np.log(np.maximum([first.at(n0, d0).size_term, first.at(n0, d0).data_term, first.floor], tiny))
    starts = [[*terms, first.alpha, first.beta]]
    third = np.log(points.loss.min() / 3)
    starts += [[third, third, third, *exponents] for exponents in STARTS]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 400, "maxfun": 1000}
    from scipy.optimize import minimize

    found = min(
        (minimize(objective, start, jac=True, method="L-BFGS-B", options=options) for start in starts),
        key=lambda result: float(result.fun),
    )
    size, data, floor, alpha, beta = found.x.tolist()
    return ChinchillaLaw(float(np.exp(floor)), float(np.exp(size)), float(np.exp(data)), alpha, beta, n0, d0)


def log_sum_exp_objective(
    at: Array, log_n: Array, log_d: Array, log_loss: Array, delta: float
) -> tuple[float, Array]:
    """Sum of Huber losses and its gradient, at (a, b, e, alpha, beta)."""
    a, b, e, alpha, beta = at
    parts = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    highest = parts.max(axis=0)
    share = np.exp(parts - highest)
    total = share.sum(axis=0)
    share /= total
    error = highest + np.log(total) - log_loss
    size = np.abs(error)
    value = np.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta)).sum()
    pull = np.clip(error, -delta, delta) * share
    sums = pull.sum(axis=1)
    return float(value), np.array([*sums, -(pull[0] * log_n).sum(), -(pull[1] * log_d).sum()])
