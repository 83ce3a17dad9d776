r"""What a fitted law says, in figures that mean something, and what would break it.

A and B are not among them (see ``laws``). Instead: exponents with intervals, the loss at reference points, the share
that is floor, the best split of compute, and how far each figure lies beyond the data. The compute-optimal exponents
follow from the law's own:  N* ~ C^a  with  a = beta / (alpha + beta),  D* ~ C^(1 - a),  and the reducible loss along
that path falls as C^-gamma with gamma = alpha beta / (alpha + beta).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steepest.errors import DataError
from steepest.scaling.bayes import BayesLaw, fit_bayes
from steepest.scaling.isoflop import frontier_size, isoflop_minima
from steepest.scaling.laws import Array
from steepest.scaling.points import Points
from steepest.scaling.prediction import Prediction

FURTHER = (1.0, 3.0, 10.0, 30.0, 100.0)  # times the largest compute of the table
MISFIT = 3.0


@dataclass(frozen=True)
class Range:
    """A figure with its 80 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Optimum:
    """The best split of one compute, and the loss it reaches."""

    compute: float
    n: float
    d: float
    loss: Prediction


@dataclass(frozen=True)
class Reading:
    """A law put into words and figures.

    Attributes:
        alpha, beta: exponents of N and D.
        size_exponent: a of N* ~ C^a.
        isoflop_exponent: the same from the parabolas of IsoFLOP budgets, where the table has at least two; or ``None``.
        gamma: exponent of the reducible loss along the optimal path.
        floor_share: floor over the lowest loss of the table.
        slope_n, slope_d, slope_c: -d ln L / d ln N with data without end, in D with parameters without end, and in C
            along the optimal path, all at the best split of the table's largest compute: what a law without a floor,
            such as Kaplan's, calls its exponents.
        residual: root mean square of the relative residuals.
        left_out: relative error when the most expensive runs are predicted from the rest; ``None`` if too few.
        optima: best N and D for growing compute.
        caveats: what would break the law, most serious first.
    """

    alpha: Range
    beta: Range
    size_exponent: Range
    isoflop_exponent: float | None
    gamma: Range
    floor_share: Range
    slope_n: Range
    slope_d: Range
    slope_c: Range
    residual: float
    left_out: float | None
    optima: tuple[Optimum, ...]
    caveats: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def read_law(law: BayesLaw) -> Reading:
    """Everything a table's law says.

    >>> from steepest.scaling.laws import BESIROGLU
    >>> from steepest.scaling.points import Points
    >>> n, d = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6))
    >>> said = read_law(fit_bayes(Points.of(n.ravel(), d.ravel(), BESIROGLU(n, d).ravel())))
    >>> said.alpha.low < 0.348 < said.alpha.high, said.caveats
    (True, ())
    """
    points = law.points
    mean = law.expected(points.n, points.d, points.unique)
    residuals = points.loss / mean - 1
    top = float(points.compute.max())
    optima = []
    for times in FURTHER:
        n, d = law.optimal(times * top)
        optima.append(Optimum(times * top, n, d, law.predict(n, d)))
    return Reading(
        _range(law.alpha), _range(law.beta),
        _range(law.beta / (law.alpha + law.beta)),
        _isoflop(points),
        _range(law.alpha * law.beta / (law.alpha + law.beta)),
        _range(law.floor / points.loss.min()),
        *_slopes(law, optima[0]),
        float(np.sqrt((residuals**2).mean())), leave_top_out(law), tuple(optima), tuple(_caveats(law, residuals)),
    )  # fmt: skip


def _isoflop(points: Points) -> float | None:
    try:
        return frontier_size(isoflop_minima(points)).exponent
    except DataError:
        return None


def leave_top_out(law: BayesLaw) -> float | None:
    """Median relative error of predicting the most expensive fifth of the runs from the other ones."""
    points = law.points
    order = np.argsort(points.compute, kind="stable")
    held = order[-max(1, len(points) // 5) :]
    rest = points.take(np.setdiff1d(order, held))
    if len(rest) < 4 or np.unique(rest.n).size < 2:
        return None
    refit = fit_bayes(rest, law.prior, seed=law.seed)
    unique = None if points.unique is None else points.unique[held]
    return float(np.median(refit.expected(points.n[held], points.d[held], unique) / points.loss[held] - 1))


def _slopes(law: BayesLaw, at: Optimum) -> tuple[Range, Range, Range]:
    size = law.size_term * (at.n / law.n0) ** -law.alpha
    data = law.data_term * (at.d / law.d0) ** -law.beta
    gamma = law.alpha * law.beta / (law.alpha + law.beta)
    return (
        _range(law.alpha * size / (law.floor + size)),
        _range(law.beta * data / (law.floor + data)),
        _range(gamma * (size + data) / (law.floor + size + data)),
    )


def _range(draws: Array) -> Range:
    low, median, high = np.quantile(draws, (0.1, 0.5, 0.9)).tolist()
    return Range(median, low, high)


def _caveats(law: BayesLaw, residuals: Array) -> list[str]:
    points, told = law.points, []
    spread = max(float(np.median(law.sigma)), 1e-4)
    scaled = residuals * (points.compute / points.compute.max()) ** 0.25 / spread
    worst = int(np.argmax(np.abs(scaled)))
    if abs(scaled[worst]) > MISFIT:
        told.append(
            f"{points.names[worst]} lies {residuals[worst]:+.1%} off the law, {abs(scaled[worst]):.0f} times the noise: "
            "a diverged or badly tuned run, or not the same recipe; look at it or leave it out"
        )
    if (few := int((points.ratio < 3).sum())) and few * 4 >= len(points):
        told.append(
            f"{few} runs saw fewer than 3 tokens a parameter, where residuals are several times larger"
        )
    if np.ptp(np.log(points.ratio)) < 2 * np.log(1.5):
        told.append(
            "all runs have about the same tokens a parameter, so alpha and beta cannot be told apart: trust losses "
            "near that ratio, and no optimal split; one run at 4 times the ratio would part them"
        )
    for name, values in (("sizes", points.n), ("lengths", points.d)):
        if np.ptp(np.log(values)) < np.log(4):
            told.append(
                f"the {name} span a factor of {values.max() / values.min():.1f}; below 4 an exponent is a guess"
            )
    for name, draws, middle, width in (
        ("alpha", law.alpha, law.prior.alpha, law.prior.alpha_spread),
        ("beta", law.beta, law.prior.beta, law.prior.beta_spread),
    ):
        z = (np.log(draws) - np.log(middle)) / width
        if z.std() > 0.8:
            told.append(f"{name} is still the prior's: these runs say little about it")
        elif abs(float(z.mean())) > 2:
            told.append(
                f"{name} lies {abs(float(z.mean())):.1f} deviations from what published families show"
            )
    if np.ptp(np.log(points.compute)) < np.log(10):
        told.append("all runs are within a factor of 10 in compute; a law needs at least 30 to show its bend")
    if points.unique is not None and (points.d / points.unique).max() > 4:
        told.append(
            "some runs repeat their data more than 4 times; what repeats are worth is a published figure here"
        )
    return told
