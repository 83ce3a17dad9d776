r"""The default fit: every exponent the data allow, weighed, so that a prediction comes with its uncertainty.

    L = (E + A N^-alpha + B D^-beta) (1 + noise),      noise of a run ~ Normal(0, sigma^2 / w),  w = (C / C_max)^p

A small ladder cannot tell its exponents, and the best-fitting ones predict badly (figures in dev/LOG.md). So none is
chosen; the posterior over all of them is sampled:

    1. ln alpha and ln beta on a grid, with a weak Gaussian prior from published families of runs
    2. given both, the law is linear: E, A, B and sigma^2 have a normal-inverse-gamma posterior in closed form
    3. draws of E, A, B that are negative, or whose floor lies above the lowest loss, are rejected
    4. how much better the law holds for larger runs is not known either: p = 0, 1/2 and 1 get a third of the draws each
    5. in a table of a dozen runs or more, those far off the law count less, as under Huber's loss

A prediction is the law of every draw, plus the noise of one more run, plus what laws of this form miss by when they are
extrapolated; its quantiles are the interval. Some tens of milliseconds of numpy.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from steepest.scaling.draws import DRAWS, DrawnLaw, widened
from steepest.scaling.laws import FLOPS, REPEATS, REPEATS_SPREAD, Array, ChinchillaLaw, effective_tokens
from steepest.scaling.points import Points
from steepest.scaling.posterior import Prior, solve

ROUNDS = 3  # of fits to a large table, each with less weight on what lies off the last one
LEAST_TO_DOUBT = 12  # points, below which an outlier cannot be told from a law


@dataclass(frozen=True)
class BayesLaw(DrawnLaw):
    """A posterior over laws, as equally likely draws.

    Attributes:
        points: what it was fitted to.
        floor, size_term, data_term, alpha, beta: one entry a draw, terms at the reference (n0, d0).
        sigma: relative noise of one run at the largest compute, one entry a draw.
        multiplier: what half-widths are multiplied by (1 as fitted; a user's own record may widen it).
    """

    points: Points
    floor: Array
    size_term: Array
    data_term: Array
    alpha: Array
    beta: Array
    sigma: Array
    n0: float
    d0: float
    multiplier: float
    seed: int
    prior: Prior = field(default_factory=Prior)

    def losses(self, n: ArrayLike, d: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """The law of every draw, without a run's noise: shape (draws, *shape of n and d)."""
        n, d = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(d, np.float64))
        a_draw = (-1,) + (1,) * n.ndim
        fresh: Array = np.asarray(d)
        if unique is not None:
            repeats = self.repeats(REPEATS, REPEATS_SPREAD)
            fresh = effective_tokens(d, unique, repeats.reshape(a_draw))
        size = self.size_term.reshape(a_draw) * np.exp(-self.alpha.reshape(a_draw) * np.log(n / self.n0))
        data = self.data_term.reshape(a_draw) * np.exp(-self.beta.reshape(a_draw) * np.log(fresh / self.d0))
        return np.asarray(self.floor.reshape(a_draw) + size + data)

    def sample(self, n: float, d: float, unique: float | None = None) -> Array:
        """Losses that one run of N parameters and D tokens may reach, noise included: one entry a draw."""
        return widened(super().sample(n, d, unique), self.multiplier)

    def choose(self, n: ArrayLike, d: ArrayLike, unique: float | None = None) -> int:
        """Index of the best among candidates (N, D): sizes with the tokens this machine's time buys them."""
        return int(np.argmin(self.expected(n, d, unique)))

    def optimal(
        self, compute: float, unique: float | None = None, *, ratios: tuple[float, float] = (1.0, 1000.0)
    ) -> tuple[float, float]:
        """N and D of least expected loss with 6 N D = ``compute``, at tokens a parameter within ``ratios``."""
        ratio = np.exp(np.linspace(np.log(ratios[0]), np.log(ratios[1]), 241))
        n = np.sqrt(compute / FLOPS / ratio)
        best = self.choose(n, ratio * n, unique)
        return float(n[best]), float(ratio[best] * n[best])

    def mean_law(self) -> ChinchillaLaw:
        """The draw nearest to the posterior mean at the points' own region: one law to draw a line with."""
        at = self.losses(self.points.n, self.points.fresh)
        far = ((at - at.mean(axis=0)) ** 2).sum(axis=1)
        middle = (np.log(self.alpha) - np.log(self.alpha).mean()) ** 2
        middle += (np.log(self.beta) - np.log(self.beta).mean()) ** 2
        i = int(np.argmin(far / far.mean() + middle / middle.mean()))
        return ChinchillaLaw(
            float(self.floor[i]), float(self.size_term[i]), float(self.data_term[i]),
            float(self.alpha[i]), float(self.beta[i]), self.n0, self.d0,
        )  # fmt: skip


def fit_bayes(
    points: Points, prior: Prior | None = None, *, multiplier: float = 1.0, seed: int = 0
) -> BayesLaw:
    """Fit the posterior over laws.

    Args:
        points: at least four runs of two sizes.
        prior: what is believed before.
        multiplier: factor on the half-width of every interval.
        seed: of the draws; the same points and seed give the same law.

    >>> from steepest.scaling.laws import BESIROGLU
    >>> n = 1e8 * 2.0 ** np.arange(6)
    >>> law = fit_bayes(Points.of(n, 20 * n, BESIROGLU(n, 20 * n)))
    >>> far = law.predict(1e10, 2e11)
    >>> bool(abs(far.median / BESIROGLU(1e10, 2e11) - 1) < 0.01), round(far.extrapolation)
    (True, 10)
    """
    points.need()
    prior = prior or Prior()
    dice = np.random.default_rng(seed)
    share = points.compute / points.compute.max()
    n0, d0 = (float(np.exp(np.average(np.log(x), weights=share**0.5))) for x in (points.n, points.fresh))
    log_n, log_d = np.log(points.n / n0), np.log(points.fresh / d0)
    trust = np.ones(len(points))
    for left in reversed(range(ROUNDS if len(points) >= LEAST_TO_DOUBT else 1)):
        parts = [
            solve(log_n, log_d, points.loss, trust * share**power, prior, dice)
            for power in prior.weight_powers
        ]
        chance = np.concatenate([part.chance for part in parts])
        edges = (np.arange(DRAWS) + dice.random()) / DRAWS * chance.sum()
        kept = dice.permutation(np.searchsorted(np.cumsum(chance), edges).clip(max=chance.size - 1))
        draws = np.concatenate([part.draws for part in parts], axis=1)[:, kept]
        floor, size, data, alpha, beta, sigma = draws
        law = BayesLaw(points, floor, size, data, alpha, beta, sigma, n0, d0, multiplier, seed, prior)
        if left:
            trust = doubt(points.loss / law.losses(points.n, points.fresh).mean(axis=0) - 1, share)
    return law


def doubt(residuals: Array, share: Array) -> Array:
    """Weights that take from outliers what Huber's loss would: residuals beyond twice the usual one pull no harder."""
    scaled = np.abs(residuals) * share**0.25
    usual = max(1.4826 * float(np.median(scaled)), 1e-6)
    return np.asarray(np.minimum(1.0, 2 * usual / np.maximum(scaled, 1e-12)))
