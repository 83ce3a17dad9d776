"""A law as equally likely draws, and what follows from that whatever its form: expectation, outcomes, predictions."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from steepest.scaling.laws import FLOPS, Array
from steepest.scaling.points import Points
from steepest.scaling.prediction import Prediction, summarize

DRAWS = 4000
MISFIT = (
    0.0025  # relative deviation of a run from any such law, for each e-fold of compute beyond the largest run
)


class DrawnLaw:
    """What laws that are draws have in common; a form gives ``losses``.

    Attributes:
        points: what it was fitted to.
        sigma: relative noise of one run at the largest compute, one entry a draw.
        seed: of the draws.
    """

    points: Points
    sigma: Array
    seed: int

    def losses(self, n: ArrayLike, d: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """The law of every draw, without a run's noise: shape (draws, *shape of n and d)."""
        raise NotImplementedError

    def repeats(self, middle: float, spread: float) -> Array:
        """R of D_eff, one entry a draw."""
        return np.asarray(
            middle * np.exp(spread * np.random.default_rng(self.seed + 1).normal(size=self.sigma.size))
        )

    def sample(self, n: float, d: float, unique: float | None = None) -> Array:
        """Losses that one run of N parameters and D tokens may reach, noise included: one entry a draw."""
        further = max(0.0, np.log(self.extrapolation(n, d)))
        noise = np.random.default_rng(self.seed + 2).normal(size=self.sigma.size)
        return np.asarray(self.losses(n, d, unique) * (1 + np.hypot(self.sigma, MISFIT * further) * noise))

    def predict(self, n: float, d: float, unique: float | None = None) -> Prediction:
        """Median and intervals of the loss one run will reach.

        Args:
            n: parameters.
            d: tokens trained on, repeats included.
            unique: different tokens there are; none: as many as are used.
        """
        return summarize(self.sample(n, d, unique), self.extrapolation(n, d))

    def extrapolation(self, n: float, d: float) -> float:
        """Compute of a run over that of the largest run fitted."""
        return FLOPS * n * d / float(self.points.compute.max())

    def expected(self, n: ArrayLike, d: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """Posterior mean of the loss, of any shape: what a choice of size minimises."""
        return np.asarray(self.losses(n, d, unique).mean(axis=0))


def widened(draws: Array, multiplier: float) -> Array:
    """Draws whose logarithms lie ``multiplier`` times as far from their median, which stays.

    >>> widened(np.array([1.0, 2.0, 4.0]), 2.0).tolist()
    [0.5, 2.0, 8.0]
    """
    middle: Any = np.median(draws)
    return np.asarray(middle * (draws / middle).clip(1e-6) ** multiplier)
