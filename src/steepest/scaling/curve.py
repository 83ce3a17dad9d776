r"""The law of one run's own loss curve: where the loss will be at the end, under any schedule of the rate.

    L(s) = L0 + A S1(s)^-a - C S2(s)

    S1(s) = sum of the learning rates of the steps up to s                     how far the run has walked
    S2(s) = sum over steps k <= s of  m_k,   m_k = lambda m_(k-1) + (lr_(k-1) - lr_k)     how much it has annealed

The first two terms are a power law in walked distance; the last is the drop that a falling rate gives, with a memory
of about 1 / (1 - lambda) steps. Four constants, fitted to the losses so far, extrapolate the same run or any other
schedule of the same model and batch. Rises of the rate after warm-up count as negative drops; warm-up itself does not.

Rates enter as shares of the peak and S1 as a share of the steps seen, so that the constants are of order one. Weak
Gaussian priors keep what a run has not shown yet (C before any cooldown) within what runs show; a run of the same
ladder passes on its own by ``like``. The interval is the Laplace approximation, widened for residuals that hang
together from step to step.

Source: H. Tissue et al., "Scaling law with learning rate annealing", https://arxiv.org/abs/2408.11029.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steepest.errors import DataError
from steepest.scaling.laws import Array
from steepest.scaling.prediction import Prediction, summarize

MEMORY = 1000.0  # steps, of the rate drops; at most a tenth of the run (short runs anneal faster)
LEAST_LOSSES = 12
SKIP = (
    0.05  # share of the steps seen whose losses are left out: the fall from the initial guess is no power law
)
DRAWS = 2000
MOST = 400  # losses of one curve that enter the fit
LEAST_DRIFT = 0.001
HUBER = 3.0  # residuals beyond so many of the noise's own deviations pull no harder
LIKE_SPREAD = (1.0, 1.0, 0.4, 0.4)  # of the constants, around those of a run of the same ladder
# Mean and deviation of (ln of floor's odds against the lowest loss, ln A / L, ln a, ln C / L), by what runs show.
PRIOR = ((1.4, 1.5), (-2.0, 1.5), (np.log(0.45), 0.6), (-3.5, 1.5))


@dataclass(frozen=True)
class CurveLaw:
    """A fitted curve.

    Attributes:
        loss0: lowest smoothed loss seen, the scale of the constants.
        peak: rate that shares are of.
        steps: steps seen, the scale of S1.
        memory: steps that a drop of the rate is remembered.
        constants: (floor logit, ln A, ln a, ln C) at the optimum, with covariance.
        noise: relative deviation of one loss from the curve.
        drift: relative deviation that the curve itself may take from the law, for as long again as was seen.
    """

    loss0: float
    peak: float
    steps: int
    memory: float
    constants: Array
    covariance: Array
    noise: float
    drift: float

    def extrapolate(
        self, schedule: ArrayLike | Callable[[int], float], steps: int | None = None, *, seed: int = 0
    ) -> Prediction:
        """Loss at the end of a schedule.

        Args:
            schedule: the rate of every step of the whole run from the first, or a function of the step (from 0).
            steps: steps of the run, if the schedule is a function.
            seed: of the draws.
        """
        rates = rates_of(schedule, steps)
        distance, drops = self._features(rates)
        draws = np.random.default_rng(seed).multivariate_normal(
            self.constants, self.covariance, size=DRAWS, method="eigh"
        )
        losses = self.loss0 * _curve(draws.T[:, :, None], distance[-1:], drops[-1:])[:, 0]
        further = max(0.0, float(np.log(len(rates) / self.steps)))
        noise = np.random.default_rng(seed + 1).normal(size=DRAWS) * self.drift * np.sqrt(1 + further)
        return summarize(losses * (1 + noise), len(rates) / self.steps)

    def __call__(self, schedule: ArrayLike | Callable[[int], float], steps: int | None = None) -> Array:
        """The fitted loss after every step of a schedule."""
        distance, drops = self._features(rates_of(schedule, steps))
        return np.asarray(self.loss0 * _curve(self.constants[:, None], distance, drops))

    def _features(self, rates: Array) -> tuple[Array, Array]:
        return features(rates / self.peak, warmup_end(rates), self.memory, self.steps)


def fit_curve(
    *histories: Iterable[Mapping[str, Any]], like: "CurveLaw | None" = None, memory: float | None = None
) -> CurveLaw:
    """Fit the law to the lines of a run's ``metrics.jsonl``: ``step`` (1 after the first), ``lr`` and ``loss``.

    Lines without a loss (evaluations) are passed over; rates between lines are interpolated.

    Args:
        histories: lines in order; several runs of one model and batch under different schedules fit one law.
        like: a finished run of the same model family, whose constants serve as prior.
        memory: steps that a drop of the rate is remembered.

    >>> rate = lambda step: 0.01 * min(1.0, (step + 1) / 20, (1000 - step) / 400)
    >>> rates = np.array([rate(step) for step in range(1000)])
    >>> distance, drops = features(rates / 0.01, 19, 100.0, 100.0)
    >>> true = 2 + 1.5 * distance**-0.5 - 0.1 * drops
    >>> lines = [{"step": s + 1, "lr": rates[s], "loss": true[s]} for s in range(700)]
    >>> end = fit_curve(lines).extrapolate(rate, 1000)
    >>> bool(abs(end.median / true[-1] - 1) < 0.01)
    True
    """
    curves = [_read(history) for history in histories]
    peak = max(float(rates.max()) for rates, _, _ in curves)
    total = max(rates.size for rates, _, _ in curves)
    memory = memory or (like.memory if like else max(2.0, min(MEMORY, total / 10)))
    return _fit(curves, peak, total, memory, like)


def _read(history: Iterable[Mapping[str, Any]]) -> tuple[Array, NDArray[np.int64], Array]:
    """Rates of all steps, and steps and losses of the lines that have one."""
    lines = [line for line in history if line.get("loss") is not None and line.get("lr") is not None]
    step = np.array([line["step"] for line in lines], np.int64)
    loss = np.array([line["loss"] for line in lines], np.float64)
    rate = np.array([line["lr"] for line in lines], np.float64)
    if step.size and (np.diff(step) <= 0).any():
        raise DataError("the lines of a curve come in order of their steps, each step once")
    usable = np.isfinite(loss) & (loss > 0)
    if usable.sum() < LEAST_LOSSES or not (rate > 0).any():
        raise DataError(
            f"a loss curve needs at least {LEAST_LOSSES} losses to be extrapolated; got {int(usable.sum())}: "
            "train longer or log more often"
        )
    return np.interp(np.arange(1, step[-1] + 1), step, rate), step[usable], loss[usable]


def rates_of(schedule: ArrayLike | Callable[[int], float], steps: int | None) -> Array:
    """The rate of every step as an array."""
    if callable(schedule):
        if steps is None:
            raise ValueError("a schedule given as a function needs the number of steps")
        return np.array([schedule(step) for step in range(steps)], np.float64)
    return np.asarray(schedule, np.float64)


def features(shares: Array, warmup: int, memory: float, scale: float) -> tuple[Array, Array]:
    """S1 / ``scale`` and S2 / ``memory`` after every step, rates as shares of the peak.

    >>> distance, drops = features(np.array([1.0, 1.0, 0.5, 0.5]), 0, 2.0, 4.0)
    >>> distance.tolist(), drops.tolist()
    ([0.25, 0.5, 0.625, 0.75], [0.0, 0.0, 0.25, 0.375])
    """
    from scipy.signal import lfilter

    drops = np.concatenate([[0.0], shares[:-1] - shares[1:]])
    drops[: warmup + 1] = 0.0
    kept = 1 - 1 / memory
    momentum = lfilter([1.0], [1.0, -kept], drops)
    return np.cumsum(shares) / scale, np.cumsum(momentum) / memory


def _curve(constants: Array, distance: Array, drops: Array) -> Array:
    """The law over the loss scale, for constants of shape (4, ...)."""
    logit, log_reach, log_power, log_drop = constants
    floor = 1 / (1 + np.exp(-logit))
    power = np.exp(log_power)
    return np.asarray(floor + np.exp(log_reach - power * np.log(distance)) - np.exp(log_drop) * drops)


def _fit(
    curves: Sequence[tuple[Array, NDArray[np.int64], Array]], peak: float, total: int, memory: float,
    like: "CurveLaw | None",
) -> CurveLaw:  # fmt: skip
    parts, noises = [], []
    for rates, step, loss in curves:
        warmup = warmup_end(rates)
        distance, drops = features(rates / peak, warmup, memory, float(total))
        use = step > max(SKIP * rates.size, min(warmup, rates.size // 2))
        if use.sum() < LEAST_LOSSES:
            use = np.ones_like(use)
        at, loss = step[use] - 1, loss[use]
        if loss.size > MOST:  # means of neighbours: as much is known, and the fit is fast
            groups = np.array_split(np.arange(loss.size), MOST)
            at = np.array([round(at[group].mean()) for group in groups])
            loss = np.array([loss[group].mean() for group in groups])
        rough = np.diff(loss) / loss[:-1]
        noises.append(1.4826 * float(np.median(np.abs(rough - np.median(rough)))) / np.sqrt(2))
        parts.append((distance[at], drops[at], loss))
    x1, x2, loss = (np.concatenate(column) for column in zip(*parts, strict=True))
    loss0 = float(np.sort(loss)[: max(3, loss.size // 20)].mean())
    noise = max(float(np.median(noises)), 1e-4)
    means, spreads = (np.array(column, np.float64) for column in zip(*PRIOR, strict=True))
    if like is not None:
        means, spreads = like.constants.copy(), np.array(LIKE_SPREAD)

    def residuals(constants: Array) -> Array:

        error = (_curve(constants, x1, x2) * loss0 / loss - 1) / noise
        size = np.abs(error)
        beyond = np.sign(error) * np.sqrt(np.maximum(2 * HUBER * size - HUBER**2, 0.0))
        return np.concatenate([np.where(size <= HUBER, error, beyond), (constants - means) / spreads])

    from scipy.optimize import least_squares

    found = least_squares(residuals, means, x_scale="jac", max_nfev=400)
    error = _curve(found.x, x1, x2) * loss0 / loss - 1
    spread = max(float(error.std()), 1e-9)
    lag = float(np.clip((error[1:] * error[:-1]).mean() / spread**2, 0.0, 0.98))
    together = (1 + lag) / (1 - lag)  # so many neighbouring losses say what one independent loss would
    jacobian = found.jac[: error.size]
    widened = max(1.0, (spread / noise) ** 2) * together
    information = jacobian.T @ jacobian / widened + np.diag(1 / spreads**2)
    drift = max(LEAST_DRIFT, spread * np.sqrt(10 * together / error.size))
    return CurveLaw(loss0, peak, total, memory, found.x, np.linalg.inv(information), spread, float(drift))


def warmup_end(rates: Array) -> int:
    """The step at which the rate first reaches its peak."""
    return int(np.argmax(rates >= 0.999 * rates.max()))
