r"""The default fit: every exponent the data allow, weighed, so that a prediction comes with its uncertainty.

    L = (E + A N^-alpha + B D^-beta) (1 + noise),      noise of a run ~ Normal(0, sigma^2 / w),  w = (C / C_max)^p

A small ladder cannot tell its exponents, and the best-fitting ones predict badly (measured on public ladders at
1/15 of the target's compute: median error 3.3 % for the best fit, 1.6 % for this). So none is chosen:

    1. ln alpha and ln beta on a grid, with a weak Gaussian prior from published families of runs
    2. given both, the law is linear: E, A, B and sigma^2 have a normal-inverse-gamma posterior in closed form
    3. draws of E, A, B that are negative, or whose floor lies above the lowest loss, are rejected
    4. the grid is laid again around the mass, and the draws are kept with their cell's evidence as weight

A prediction is the law of every draw plus the noise of one more run; its quantiles are the interval. Weights that
grow with compute say that the law holds better the larger the run. Everything is about ten milliseconds of numpy.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from steepest.scaling.laws import FLOPS, REPEATS, REPEATS_SPREAD, Array, ChinchillaLaw, effective_tokens
from steepest.scaling.points import Points
from steepest.scaling.prediction import Prediction, summarize

CELLS = 21  # of the grid, each way
PER_CELL = 48
DRAWS = 4000
ZOOMS = 2


@dataclass(frozen=True)
class Prior:
    """What is believed before any run: medians and the standard deviation of the logarithm.

    The exponents are those of 16 published families of runs, each left out in turn (medians .267 to .278).

    Attributes:
        alpha, beta: exponents of N and of D, with their spread.
        noise: relative standard deviation of a finished run's loss, and how many runs that belief is worth.
        weight_power: p of the weights (C / C_max)^p.
    """

    alpha: float = 0.27
    alpha_spread: float = 0.45
    beta: float = 0.27
    beta_spread: float = 0.42
    noise: float = 0.004
    noise_worth: float = 4.0
    weight_power: float = 0.5


@dataclass(frozen=True)
class BayesLaw:
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
            spread = np.random.default_rng(self.seed + 1).normal(size=self.alpha.size)
            repeats = REPEATS * np.exp(REPEATS_SPREAD * spread)
            fresh = effective_tokens(d, unique, repeats.reshape(a_draw))
        size = self.size_term.reshape(a_draw) * np.exp(-self.alpha.reshape(a_draw) * np.log(n / self.n0))
        data = self.data_term.reshape(a_draw) * np.exp(-self.beta.reshape(a_draw) * np.log(fresh / self.d0))
        return np.asarray(self.floor.reshape(a_draw) + size + data)

    def sample(self, n: float, d: float, unique: float | None = None) -> Array:
        """Losses that one run of N parameters and D tokens may reach, noise included: one entry a draw."""
        noise = np.random.default_rng(self.seed + 2).normal(size=self.alpha.size)
        losses = self.losses(n, d, unique) * (1 + self.sigma * noise)
        middle = float(np.median(losses))
        return np.asarray(middle * (losses / middle).clip(1e-6) ** self.multiplier)

    def predict(self, n: float, d: float, unique: float | None = None) -> Prediction:
        """Median and intervals of the loss one run will reach.

        Args:
            n: parameters.
            d: tokens trained on, repeats included.
            unique: different tokens there are; none: as many as are used.
        """
        return summarize(self.sample(n, d, unique), FLOPS * n * d / float(self.points.compute.max()))

    def expected(self, n: ArrayLike, d: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """Posterior mean of the loss, of any shape: what a choice of size minimises."""
        return np.asarray(self.losses(n, d, unique).mean(axis=0))

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
    weight = (points.compute / points.compute.max()) ** prior.weight_power
    n0 = float(np.exp(np.average(np.log(points.n), weights=weight)))
    d0 = float(np.exp(np.average(np.log(points.fresh), weights=weight)))
    where = _Problem(np.log(points.n / n0), np.log(points.fresh / d0), points.loss, np.sqrt(weight), prior)
    center, reach = np.zeros(2), np.full(2, 2.5)
    for _ in range(ZOOMS + 1):
        cells, draws, chance = where.solve(center, reach, dice)
        mass = chance.sum(axis=1) / chance.sum()
        center = mass @ cells
        spread = np.sqrt(mass @ (cells - center) ** 2)
        reach = np.minimum(4 * spread + reach / CELLS, reach)
    flat = chance.ravel()
    edges = (np.arange(DRAWS) + dice.random()) / DRAWS
    kept = dice.permutation(np.searchsorted(np.cumsum(flat) / flat.sum(), edges).clip(max=flat.size - 1))
    floor, size, data, sigma = (part.ravel()[kept] for part in draws)
    alpha, beta = where.exponents(cells[kept // PER_CELL])
    return BayesLaw(points, floor, size, data, alpha, beta, sigma, n0, d0, multiplier, seed, prior)


class _Problem:
    """Points as logarithms around the reference, and the closed-form part of the posterior."""

    def __init__(self, log_n: Array, log_d: Array, loss: Array, root_weight: Array, prior: Prior) -> None:
        self.log_n, self.log_d, self.loss, self.root, self.prior = log_n, log_d, loss, root_weight, prior

    def exponents(self, cells: Array) -> tuple[Array, Array]:
        """alpha and beta at standardised logarithms."""
        prior = self.prior
        alpha = prior.alpha * np.exp(prior.alpha_spread * cells[:, 0])
        return alpha, prior.beta * np.exp(prior.beta_spread * cells[:, 1])

    def solve(
        self, center: Array, reach: Array, dice: np.random.Generator
    ) -> tuple[Array, tuple[Array, Array, Array, Array], Array]:
        """Lay a grid; return its cells, draws of (E, A, B, sigma) in each, and the probability of each draw."""
        axes = [np.linspace(c - r, c + r, CELLS) for c, r in zip(center, reach, strict=True)]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        alpha, beta = self.exponents(cells)
        count, noise = self.loss.size, self.prior.noise
        shape_0 = self.prior.noise_worth / 2
        columns = np.stack(
            [
                np.ones((len(cells), count)),
                np.exp(-alpha[:, None] * self.log_n),
                np.exp(-beta[:, None] * self.log_d),
            ],
            axis=2,
        )
        columns *= (self.root / self.loss)[None, :, None]
        ridge = np.eye(3) * (noise / self.loss.mean()) ** 2  # proper, and flat on the scale of the loss
        gram = np.einsum("gni,gnj->gij", columns, columns) + ridge
        moment = np.einsum("gni,n->gi", columns, self.root)
        inverse = np.linalg.inv(gram)
        mean = np.einsum("gij,gj->gi", inverse, moment)
        rest = np.maximum(self.root @ self.root - np.einsum("gi,gi->g", mean, moment), 1e-14)
        shape = shape_0 + count / 2
        scale = shape_0 * noise**2 + rest / 2
        evidence = -0.5 * (cells**2).sum(axis=1) - 0.5 * np.linalg.slogdet(gram)[1] - shape * np.log(scale)
        variance = scale[:, None] / dice.gamma(shape, size=(len(cells), PER_CELL))
        steps = dice.normal(size=(len(cells), PER_CELL, 3)) @ np.linalg.cholesky(inverse).swapaxes(1, 2)
        terms = mean[:, None, :] + np.sqrt(variance)[:, :, None] * steps
        allowed = (terms >= 0).all(axis=2) & (terms[:, :, 0] <= self.loss.min())
        chance = np.exp(evidence - evidence.max())[:, None] * (allowed if allowed.any() else 1.0)
        return cells, (terms[:, :, 0], terms[:, :, 1], terms[:, :, 2], np.sqrt(variance)), chance
