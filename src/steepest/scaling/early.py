r"""The early law: what small models do in their first few million tokens, long before their floor is in sight.

    (L^lambda - 1) / lambda  =  k - a ln N - b ln D_eff  (1 + noise),        lambda ~ Normal(0.6, 0.3)

There the loss falls faster than every sum of power laws that fits the same short runs: with each octave of tokens by
something between a constant share of itself (lambda = 0, which is ln L) and a constant number of bits (lambda = 1).
Runs of a few hundred thousand tokens cannot tell which, and it is most of what a prediction leaves open. So lambda is
drawn, and given it the rest is linear regression with a normal-inverse-gamma posterior. (Box and Cox, "An Analysis of
Transformations", 1964; what larger runs said of lambda: dev/LOG.md.)

Repeated tokens are worth the less, the more parameters there are to learn them by heart: D_eff has

    R = 2 (U / N)^(2/3)  times  exp(Normal(0, 0.5)),        U different tokens

which is the 15 of N. Muennighoff et al. (https://arxiv.org/abs/2305.16264) at the twenty tokens a parameter of their runs, and 1 to 3
where parameters are as many as tokens, as measured here (dev/LOG.md). And more parameters than a repeated text can feed help less:

    N_eff = N / (1 + (1 - U / D) N / (12 U)),        D > U

It knows no floor and must not be carried far: `trust` takes it away for longer runs, and where the loss of the runs fitted already
falls more slowly than it did, as it does near a floor.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.scaling.draws import DRAWS, DrawnLaw
from steepest.scaling.laws import Array, effective_tokens
from steepest.scaling.points import Points
from steepest.scaling.posterior import Prior

BEND, BEND_SPREAD = 0.6, 0.3  # of lambda
# Tokens of a run: the early law alone up to the one, not at all from the other on.
TRUSTED, DISTRUSTED = 8e6, 64e6
# Last slope over the one before: the early law alone down to the one, not at all from the other on.
STEADY, SLOWING = 0.85, 0.6
FED = 12.0  # parameters a token of repeated text, of which half help
EARLY_REPEATS, EARLY_REPEATS_SPREAD = 2.0, 0.5  # R of D_eff where N = U, and the deviation of its logarithm
CROWDING = 2 / 3  # power of U / N in R
LEAST = 0.05  # share of the geometric mean loss, below which no prediction goes


@dataclass(frozen=True)
class EarlyLaw(DrawnLaw):
    """A posterior over early laws, as equally likely draws.

    Attributes:
        points: what it was fitted to.
        scale: geometric mean of their losses; the law is one of L / scale.
        bend: lambda, one entry a draw.
        coefficients: k, a, b: shape (3, draws), logarithms around (n0, d0).
        sigma: relative noise of one run, one entry a draw.
    """

    points: Points
    scale: float
    bend: Array
    coefficients: Array
    sigma: Array
    n0: float
    d0: float
    seed: int

    def losses(self, n: ArrayLike, d: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """The law of every draw, without a run's noise: shape (draws, *shape of n and d)."""
        n, d = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(d, np.float64))
        a_draw = (-1,) + (1,) * n.ndim
        k, a, b = (part.reshape(a_draw) for part in self.coefficients)
        luck = self.repeats(1.0, EARLY_REPEATS_SPREAD)
        fresh = effective_tokens(d, unique, repeats_worth(n, unique) * luck.reshape(a_draw))
        straight = k - a * np.log(fed(n, d, unique) / self.n0) - b * np.log(fresh / self.d0)
        return self.scale * bent_back(straight, self.bend.reshape(a_draw))


def fit_early(points: Points, prior: Prior | None = None, *, seed: int = 0) -> EarlyLaw:
    """Fit the posterior over early laws.

    Args:
        points: at least four runs of two sizes.
        prior: of a run's noise.
        seed: of the draws.

    >>> n, d = np.array([1e5, 1e5, 3e5, 3e5]), np.array([2.5e5, 5e5, 2.5e5, 5e5])
    >>> law = fit_early(Points.of(n, d, 3 * (n / 1e5) ** -0.05 * (d / 2.5e5) ** -0.1))
    >>> share, bits = law.losses(1e6, 4e6)[[law.bend.argmin(), law.bend.argmax()]]
    >>> bool(share > 3 * 10 ** -0.05 * 16 ** -0.1 > bits)
    True
    """
    points.need()
    prior, dice = prior or Prior(), np.random.default_rng(seed)
    helping, fresh = as_fresh(points.n, points.d, points.unique)
    n0, d0 = (float(np.exp(np.log(x).mean())) for x in (helping, fresh))
    scale = float(np.exp(np.log(points.loss).mean()))
    y = points.loss / scale
    columns = np.column_stack([np.ones(len(y)), -np.log(helping / n0), -np.log(fresh / d0)])
    bend = BEND + BEND_SPREAD * dice.normal(size=DRAWS)
    # d(straight) = y^lambda d(ln y), so each run's relative noise is the same in ln y: rows are divided by y^lambda.
    weight = y[None, :] ** -bend[:, None]
    straight = unbent(y[None, :], bend[:, None])
    rows = columns[None, :, :] * weight[:, :, None]
    gram = rows.swapaxes(1, 2) @ rows + 1e-9 * np.eye(3)
    moment = np.einsum("gni,gn->gi", rows, weight * straight)
    inverse = np.linalg.inv(gram)
    mean = np.einsum("gij,gj->gi", inverse, moment)
    rest = ((weight * straight - np.einsum("gni,gi->gn", rows, mean)) ** 2).sum(axis=1)
    shape = (prior.noise_worth + len(y) - 3) / 2
    scale_of_noise = (prior.noise_worth * prior.noise**2 + rest) / 2
    sigma = np.sqrt(scale_of_noise / dice.gamma(shape, size=DRAWS))
    steps = np.einsum("gij,gj->gi", np.linalg.cholesky(inverse), dice.normal(size=(DRAWS, 3)))
    found = (mean + sigma[:, None] * steps).T
    found[1:] = found[1:].clip(0)  # more parameters or tokens do no harm
    return EarlyLaw(points, scale, bend, found, sigma, n0, d0, seed)


def trust(tokens: ArrayLike, steadiness: float = 1.0) -> Array:
    """How much of a prediction is the early law's: 1 for runs of up to 8 million tokens, 0 from 64 million on.

    Args:
        tokens: of the run that is foretold.
        steadiness: slope -d ln L / d ln D at the ends of the runs fitted over what it was before.

    >>> trust([5e6, 32e6, 1e8]).round(2).tolist(), [trust(5e6, steady).item() for steady in (1.2, 0.725, 0.5)]
    ([1.0, 0.33, 0.0], [1.0, 0.5, 0.0])
    """
    short = 1.0 - np.log(np.asarray(tokens, np.float64) / TRUSTED) / math.log(DISTRUSTED / TRUSTED)
    steady = (steadiness - SLOWING) / (STEADY - SLOWING)
    return np.asarray(np.clip(short, 0.0, 1.0) * min(max(steady, 0.0), 1.0))


def repeats_worth(n: ArrayLike, unique: ArrayLike | None) -> Array:
    """R of D_eff for models of ``n`` parameters: passes over the text after which one more is worth a third of the first.

    >>> repeats_worth([1e6, 1e6, 1e6], [2e7, 1e6, 1e5]).round(2).tolist()
    [14.74, 2.0, 0.43]
    """
    if unique is None:
        return np.asarray(EARLY_REPEATS)
    return np.asarray(
        EARLY_REPEATS * (np.asarray(unique, np.float64) / np.asarray(n, np.float64)) ** CROWDING
    )


def as_fresh(n: ArrayLike, d: ArrayLike, unique: ArrayLike | None) -> tuple[Array, Array]:
    """N_eff and D_eff: a run on fresh tokens that is worth as much, for a law that knows no repeats.

    >>> [one.round().item() for one in as_fresh(1e6, 5e6, 1e6)], [one.item() for one in as_fresh(1e6, 5e6, 9e6)]
    ([937500.0, 2729329.0], [1000000.0, 5000000.0])
    """
    return fed(n, d, unique), effective_tokens(d, unique, repeats_worth(n, unique))


def fed(n: ArrayLike, d: ArrayLike, unique: ArrayLike | None) -> Array:
    """N_eff: parameters that help, where ``d`` tokens come from ``unique`` different ones; all, while no token is repeated.

    >>> fed([1e5, 2.4e6], 1e12, 2e5).round().tolist(), fed(1e6, 1e5, 2e5).item()
    ([96000.0, 1200000.0], 1000000.0)
    """
    n, d = np.asarray(n, np.float64), np.asarray(d, np.float64)
    if unique is None:
        return n
    u = np.asarray(unique, np.float64)
    return np.asarray(n / (1 + np.maximum(1 - u / d, 0) * n / (FED * u)))


def unbent(y: ArrayLike, bend: ArrayLike) -> Array:
    """Box and Cox's transform (y^lambda - 1) / lambda; ln y at lambda = 0.

    >>> unbent([2.0, 2.0], [0.0, 1.0]).round(4).tolist()
    [0.6931, 1.0]
    """
    log_y, bend = np.log(np.asarray(y, np.float64)), _away_from_zero(bend)
    return np.asarray(np.expm1(bend * log_y) / bend)


def bent_back(straight: ArrayLike, bend: ArrayLike) -> Array:
    """Its inverse, kept above ``LEAST``.

    >>> bent_back(unbent([0.7, 1.8, 3.0], 0.4), 0.4).round(6).tolist()
    [0.7, 1.8, 3.0]
    """
    straight, bend = np.broadcast_arrays(np.asarray(straight, np.float64), _away_from_zero(bend))
    inside = np.where(bend > 0, np.maximum(bend * straight, LEAST**bend - 1), bend * straight)
    inside = np.where(bend < 0, np.minimum(inside, 1e3), inside)
    return np.asarray(np.maximum(np.exp(np.log1p(inside) / bend), LEAST))


def _away_from_zero(bend: ArrayLike) -> Array:
    bend = np.asarray(bend, np.float64)
    return np.where(np.abs(bend) < 1e-6, 1e-6, bend)
