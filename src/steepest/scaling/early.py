r"""The early law: what small models do in their first few million tokens, long before their floor is in sight.

    ln L  =  k - a ln N_eff - b ln D_eff - c ln N_eff ln D_eff  (+ noise),        c ~ Normal(0.013, 0.005)

with N and D over their geometric means in the runs fitted. There the loss falls faster than every sum of power laws, and than every
product of them, that fits the same short runs: the wider a model, the more it gains from an octave of tokens. Runs of a few
hundred thousand tokens cannot tell by how much, and it is most of what a prediction leaves open. So c is drawn, and given
it the rest is linear regression with a normal-inverse-gamma posterior. (What larger runs said of c: dev/LOG.md.)

Repeated tokens are worth the less, the more parameters there are to learn them by heart: D_eff has

    R = 2 (U / N)^(2/3)  times  exp(Normal(0, 0.5)),        U different tokens

which is the 15 of N. Muennighoff et al. (https://arxiv.org/abs/2305.16264) at the twenty tokens a parameter of their runs, and 1 to 3
where parameters are as many as tokens, as measured here (dev/LOG.md). And more parameters than a repeated text can feed help less:

    N_eff = N / (1 + s N / (12 U)),        s = (D_eff - U) / (U R)  from 0, while tokens are fresh, to 1

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

TOGETHER, TOGETHER_SPREAD = 0.013, 0.005  # of c
# Tokens of a run: the early law alone up to the one, not at all from the other on.
TRUSTED, DISTRUSTED = 8e6, 64e6
# Last slope over the one before: the early law alone down to the one, not at all from the other on.
STEADY, SLOWING = 0.85, 0.65
FED = 12.0  # parameters a token of repeated text, of which half help
EARLY_REPEATS, EARLY_REPEATS_SPREAD = 2.0, 0.5  # R of D_eff where N = U, and the deviation of its logarithm
CROWDING = 2 / 3  # power of U / N in R


@dataclass(frozen=True)
class EarlyLaw(DrawnLaw):
    """A posterior over early laws, as equally likely draws.

    Attributes:
        points: what it was fitted to.
        scale: geometric mean of their losses; the law is one of L / scale.
        together: c, one entry a draw.
        coefficients: k, a, b: shape (3, draws), logarithms around (n0, d0).
        sigma: relative noise of one run, one entry a draw.
    """

    points: Points
    scale: float
    together: Array
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
        x, t = np.log(fed(n, d, unique) / self.n0), np.log(fresh / self.d0)
        return np.asarray(self.scale * np.exp(k - a * x - b * t - self.together.reshape(a_draw) * x * t))


def fit_early(points: Points, prior: Prior | None = None, *, seed: int = 0) -> EarlyLaw:
    """Fit the posterior over early laws.

    Args:
        points: at least four runs of two sizes.
        prior: of a run's noise.
        seed: of the draws.

    >>> n, d = np.array([1e5, 1e5, 3e5, 3e5]), np.array([2.5e5, 5e5, 2.5e5, 5e5])
    >>> product = 3 * (n / 1e5) ** -0.05 * (d / 2.5e5) ** -0.1
    >>> bool(fit_early(Points.of(n, d, product)).expected(1e6, 4e6) < 3 * 10**-0.05 * 16**-0.1)
    True
    """
    points.need()
    prior, dice = prior or Prior(), np.random.default_rng(seed)
    helping, fresh = as_fresh(points.n, points.d, points.unique)
    n0, d0 = (float(np.exp(np.log(x).mean())) for x in (helping, fresh))
    scale = float(np.exp(np.log(points.loss).mean()))
    x, t = np.log(helping / n0), np.log(fresh / d0)
    columns = np.column_stack([np.ones(len(x)), -x, -t])
    together = TOGETHER + TOGETHER_SPREAD * dice.normal(size=DRAWS)
    straight = np.log(points.loss / scale) + together[:, None] * (x * t)
    inverse = np.linalg.inv(columns.T @ columns + 1e-9 * np.eye(3))
    mean = straight @ columns @ inverse
    rest = ((straight - mean @ columns.T) ** 2).sum(axis=1)
    shape = (prior.noise_worth + len(x) - 3) / 2
    scale_of_noise = (prior.noise_worth * prior.noise**2 + rest) / 2
    sigma = np.sqrt(scale_of_noise / dice.gamma(shape, size=DRAWS))
    steps = dice.normal(size=(DRAWS, 3)) @ np.linalg.cholesky(inverse).T
    found = (mean + sigma[:, None] * steps).T
    found[1:] = found[1:].clip(0)  # more parameters or tokens do no harm
    return EarlyLaw(points, scale, together, found, sigma, n0, d0, seed)


def trust(tokens: ArrayLike, steadiness: float = 1.0) -> Array:
    """How much of a prediction is the early law's: 1 for runs of up to 8 million tokens, 0 from 64 million on.

    Args:
        tokens: of the run that is foretold.
        steadiness: slope -d ln L / d ln D at the ends of the runs fitted over what it was before.

    >>> trust([5e6, 32e6, 1e8]).round(2).tolist(), [trust(5e6, steady).item() for steady in (1.2, 0.75, 0.5)]
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
    ([932788.0, 2729329.0], [1000000.0, 5000000.0])
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
    u, worth = np.asarray(unique, np.float64), repeats_worth(n, unique)
    read = (effective_tokens(d, unique, worth) - np.minimum(u, d)) / (u * worth)
    return np.asarray(n / (1 + read * n / (FED * u)))
