r"""The posterior over laws, for one choice of weights: exponents on a grid, everything else in closed form.

    y_i = 1 = (E + A N_i^-alpha + B D_i^-beta) / L_i + e_i,      e_i ~ Normal(0, sigma^2 / w_i)

Given the exponents this is linear regression with a normal-inverse-gamma prior: the coefficients' posterior, and the
evidence of the exponents, are one 3 x 3 solve. Draws with a negative coefficient, or with a floor above the lowest
loss, are impossible. The first grid covers the prior; where the data know more, it is laid again around the mass.
"""

from dataclasses import dataclass

import numpy as np

from steepest.scaling.laws import Array

CELLS = 17  # of the grid, each way
PER_CELL = 24
REACH = 2.4  # of the first grid, in standard deviations of the prior
ZOOMS = 3


@dataclass(frozen=True)
class Prior:
    """What is believed before any run: medians and the standard deviation of the logarithm.

    The exponents are those of 16 published families of runs, each left out in turn (medians .267 to .278).

    Attributes:
        alpha, beta: exponents of N and of D, with their spread.
        noise: relative standard deviation of a finished run's loss, and how many runs that belief is worth.
        floor: shape of the belief about E over the lowest loss, x^(f - 1) (1 - x)^(f - 1): 1 is flat, more keeps it
            away from both ends.
        weight_powers: p of the weights (C / C_max)^p; none is chosen, each gets the same share of the draws.
    """

    alpha: float = 0.27
    alpha_spread: float = 0.45
    beta: float = 0.27
    beta_spread: float = 0.42
    noise: float = 0.003
    noise_worth: float = 4.0
    floor: float = 1.5
    weight_powers: tuple[float, ...] = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Posterior:
    """Weighted draws: rows floor, size term, data term, alpha, beta, sigma; and each one's chance, 1 in all."""

    draws: Array
    chance: Array


def solve(
    log_n: Array, log_d: Array, loss: Array, weight: Array, prior: Prior, dice: np.random.Generator
) -> Posterior:
    """Draws from the posterior.

    Args:
        log_n, log_d: logarithms around the reference point.
        loss: losses.
        weight: of each run, 1 for one with the full noise sigma.
    """
    center, reach = np.zeros(2), np.full(2, REACH)
    for _ in range(ZOOMS + 1):
        found = _on_grid(center, reach, log_n, log_d, loss, weight, prior, dice)
        cells = _standardised(found.draws[3:5], prior)
        center = cells @ found.chance
        spread = np.sqrt((cells - center[:, None]) ** 2 @ found.chance)
        smaller = 4 * spread + reach / CELLS
        if (smaller > 0.7 * reach).all():
            break
        reach = np.minimum(smaller, reach)
    return found


def _standardised(exponents: Array, prior: Prior) -> Array:
    middle = np.log([[prior.alpha], [prior.beta]])
    return np.asarray((np.log(exponents) - middle) / [[prior.alpha_spread], [prior.beta_spread]])


def _on_grid(
    center: Array, reach: Array, log_n: Array, log_d: Array, loss: Array, weight: Array, prior: Prior,
    dice: np.random.Generator,
) -> Posterior:  # fmt: skip
    axes = [np.linspace(c - r, c + r, CELLS) for c, r in zip(center, reach, strict=True)]
    first, second = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    alpha = prior.alpha * np.exp(prior.alpha_spread * first)
    beta = prior.beta * np.exp(prior.beta_spread * second)
    root, shape_0 = np.sqrt(weight), prior.noise_worth / 2
    terms = [
        np.ones((first.size, loss.size)),
        np.exp(-alpha[:, None] * log_n),
        np.exp(-beta[:, None] * log_d),
    ]
    columns = np.stack(terms, axis=2) * (root / loss)[None, :, None]
    ridge = np.eye(3) * (prior.noise / loss.mean()) ** 2  # proper, and flat on the scale of the loss
    gram = columns.swapaxes(1, 2) @ columns + ridge
    moment = np.einsum("gni,n->gi", columns, root)
    inverse = np.linalg.inv(gram)
    mean = np.einsum("gij,gj->gi", inverse, moment)
    rest = np.maximum(root @ root - np.einsum("gi,gi->g", mean, moment), 1e-14)
    shape = shape_0 + loss.size / 2
    scale = shape_0 * prior.noise**2 + rest / 2
    evidence = -0.5 * (first**2 + second**2 + np.linalg.slogdet(gram)[1]) - shape * np.log(scale)

    variance = scale[:, None] / dice.gamma(shape, size=(first.size, PER_CELL))
    steps = dice.normal(size=(first.size, PER_CELL, 3)) @ np.linalg.cholesky(inverse).swapaxes(1, 2)
    drawn = (mean[:, None, :] + np.sqrt(variance)[:, :, None] * steps).reshape(-1, 3).T
    possible = (drawn >= 0).all(axis=0) & (drawn[0] < loss.min())
    if not possible.any():
        possible[:] = True  # losses that rise with size: no law of this kind, and the residuals will say so
    part = np.clip(drawn[0] / loss.min(), 1e-9, 1 - 1e-9)
    log_chance = np.where(possible, np.repeat(evidence, PER_CELL), -np.inf)
    log_chance = log_chance + (prior.floor - 1) * np.log(4 * part * (1 - part))
    exponents = np.repeat([alpha, beta], PER_CELL, axis=1)
    chance = np.exp(log_chance - log_chance.max())
    return Posterior(np.vstack([drawn, exponents, np.sqrt(variance).ravel()]), chance / chance.sum())
