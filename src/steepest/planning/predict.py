r"""From finished rungs to a predicted loss with intervals, or to a plain "not predictable".

    rungs -> the gate -> points (N, D, U, L) -> the law -> L at the run's own N, D and U, in bits per byte

All rungs are evaluated on the same part of the held-out text; what the run itself will be judged on is more of it, so
one large rung is evaluated on both and the ratio of its two losses carries over. The interval is the law's, which
holds the floor and the luck of one run, and wider for tokens that the time may or may not buy:

    half^2 = half_law^2 + (z s_tokens  -d ln L / d ln D)^2

For a run of up to eight million tokens the law is the early one (``scaling/early``); for longer ones, and where the rungs' loss
slows down, draws of it give way to those of the sum of power laws with a floor (``scaling/bayes``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from steepest.planning.climb import Finished
from steepest.planning.menu import Menu
from steepest.scaling import (
    BayesLaw,
    EarlyLaw,
    Points,
    Prediction,
    Verdict,
    fit_bayes,
    fit_early,
    judge_ladder,
)
from steepest.scaling.draws import widened
from steepest.scaling.early import as_fresh, trust
from steepest.scaling.laws import Array
from steepest.scaling.points import LEAST_POINTS, LEAST_SIZES
from steepest.scaling.prediction import summarize
from steepest.scaling.recorded import record_of

PACE_SPREAD = 0.05  # of ln tokens: how well measured speed foretells a run's
Z80, Z95 = 1.2816, 1.9600
WITHIN = 32.0  # times the run's tokens a parameter, that a rung may be away: small ones of a ladder for a short text are at twenty
TOLERANCE = 0.02  # of the gate, for slopes of training losses of some hundred steps
SLOPE_LUCK = 0.01 / math.log(2)  # of a slope, in an octave: seeds of small rungs differ by 1%
MOST_DOUBT = 3.0
TRUST = 0.005  # what the law must promise to double or halve the size that the rule takes


@dataclass(frozen=True)
class Outlook:
    """What a ladder says.

    Attributes:
        verdict: the gate's.
        rungs: those that were judged, in the order of the verdict's.
        law: fitted to those that passed, losses in nats per token of what the run is judged on; or ``None``.
        early: the early law fitted to the same.
        steadiness: whether the loss of those that passed falls as it did (see `steadiness_of`).
        unit: bits per byte of a nat per token.
        multiplier: that half-widths are multiplied by, from the user's own record (``ledger``).
        doubt: and by this besides, from the ladder's own top (see `doubt`).
    """

    verdict: Verdict
    rungs: tuple[Finished, ...]
    law: BayesLaw | None
    early: EarlyLaw | None
    steadiness: float
    unit: float
    multiplier: float
    doubt: float

    def predict(self, n: float, tokens: float, unique: float) -> Prediction:
        """Bits per byte of a run of ``n`` parameters that trains on about ``tokens``, ``unique`` of them different."""
        assert self.law is not None and self.early is not None
        different = _unique(tokens, unique)
        alone, fresh = (float(value) for value in as_fresh(n, tokens, different))
        late, soon = self.law.sample(alone, fresh), self.early.sample(n, tokens, different)
        many = round(float(trust(tokens, self.steadiness)) * soon.size)
        draws = widened(np.concatenate([soon[:many], late[many:]]), self.multiplier * self.doubt)
        told = summarize(draws, self.early.extrapolation(n, tokens)).scaled(self.unit)
        around = tokens * np.array([0.9, 1.1])
        near = self.expected(n, around, np.minimum(unique, around))
        slope = float(np.log(near[0] / near[1]) / math.log(1.1 / 0.9))
        return _widened(told, self.multiplier * slope * PACE_SPREAD)

    def expected(self, n: ArrayLike, tokens: ArrayLike, unique: ArrayLike) -> Array:
        """Mean of the loss in nats per token, of any shape."""
        assert self.law is not None and self.early is not None
        late, soon = self.law.expected(*as_fresh(n, tokens, unique)), self.early.expected(n, tokens, unique)
        part = trust(tokens, self.steadiness)
        return np.asarray((1 - part) * late + part * soon)

    def record(self, menu: Menu, index: int, *, memory: Menu) -> dict[str, Any]:
        """The promise for one size, and what other budgets would reach, as JSON for plan.json.

        Args:
            memory: the sizes that twice the memory would allow.
        """

        def told(menu: Menu, index: int) -> dict[str, Any]:
            size, tokens = menu.sizes[index], menu.tokens[index]
            inner = self.predict(size, tokens, menu.unique)
            return {
                "metric": "bits_per_byte", "value": inner.median, "low": inner.low80, "high": inner.high80, "level": 0.8,
                "low95": inner.low95, "high95": inner.high95, "extrapolation": inner.extrapolation,
                "matrix_parameters": size, "tokens": int(tokens),
            }  # fmt: skip

        others = {
            "2x time": menu.with_budget(time=2.0), "2x data": menu.with_budget(data=2.0), "2x memory": memory,
            "10x machine": menu.with_budget(time=10.0),
        }  # fmt: skip
        assert self.law is not None and self.early is not None
        drawn = self.early if trust(menu.tokens[index], self.steadiness) > 0.5 else self.law
        return {
            "law": {**record_of(drawn, self.unit), "unit": "bits per byte"},
            "prediction": {**told(menu, index), "multiplier": self.multiplier, "doubt": self.doubt},
            "with": {name: told(other, other.best(self)) for name, other in others.items()},
        }

    def best(
        self, sizes: Sequence[int], tokens: Sequence[float], unique: float, allowed: Sequence[int], rule: int
    ) -> int:
        """Index of the size with the least expected loss; the rule's is left only for a gain.

        Args:
            allowed: indices to choose from.
            rule: index of the size that the rule takes.
        """

        def cost(index: int) -> float:
            loss = float(self.expected(sizes[index], tokens[index], _unique(tokens[index], unique)))
            octaves = math.log2(sizes[index] / sizes[rule])
            return math.log(loss) + TRUST * octaves**2

        return min({*allowed, rule}, key=cost)


def look_out(
    finished: Sequence[Finished],
    *,
    n: float,
    tokens: float,
    depth: int,
    multiplier: float,
    lr_multiplier: float,
) -> Outlook:
    """Judge a ladder's rungs and fit the law to those that pass.

    Args:
        n, tokens: of the run.
        depth: of its rungs; only rungs as deep are comparable.
        multiplier: of half-widths.
        lr_multiplier: of the learning rate; only rungs with the same are comparable.
    """
    ratio = tokens / n
    comparable = sorted(
        (
            one for one in finished
            if (one.rung.depth, one.rung.multiplier) == (depth, lr_multiplier)
            and one.rung.n <= n and 1 / WITHIN <= one.tokens / one.rung.n / ratio <= WITHIN
        ),
        key=lambda one: one.rung.n * one.tokens,
    )  # fmt: skip
    verdict = _judge(comparable)
    judged = [one for one in comparable if one.whole] or comparable
    whole = judged[-1].whole or judged[-1].part if judged else {"loss": 1.0, "bits_per_byte": math.nan}
    scale = whole["loss"] / judged[-1].loss if judged else 1.0
    law, early, steadiness, doubted = None, None, 1.0, 1.0
    if verdict.predictable:
        passed = [comparable[index] for index in verdict.passed]
        steadiness = steadiness_of(verdict)
        doubted = doubt(passed, steadiness)
        points = points_of(passed, scale)
        law, early = _fit_late(points), fit_early(points)
    unit = whole["bits_per_byte"] / whole["loss"]
    return Outlook(verdict, tuple(comparable), law, early, steadiness, unit, multiplier, doubted)


def steadiness_of(verdict: Verdict) -> float:
    """Last slope over the slope before, of the steadiest rung that passed, were it as lucky as its seed may have made it.

    A floor slows all sizes. One that slows alone has left its knee behind. 1 where no slope is known.
    """
    known = (one for one in verdict.rungs if one.passed and not math.isnan(one.slope))
    return max(((one.slope + SLOPE_LUCK) / one.slope_before for one in known), default=1.0)


def steepening(rungs: Sequence[Finished]) -> int:
    """Tokens of the longest of some rungs that ended before its knee, as the others of its size tell; 0 if none did."""
    judged = zip(rungs, _judge(rungs).rungs, strict=True)
    return max((one.tokens for one, said in judged if said.slope > said.slope_before + TOLERANCE), default=0)


def _judge(rungs: Sequence[Finished]) -> Verdict:
    curves = [([d for d, _ in one.curve], [loss for _, loss in one.curve]) for one in rungs]
    # The gate asks for three tokens a parameter; what the run itself has is enough here, for the law is used nowhere else.
    return judge_ladder(
        [one.rung.n for one in rungs], curves, tolerance=TOLERANCE, least_ratio=0.0, cooled=True,
        reached=[one.loss for one in rungs],
    )  # fmt: skip


def doubt(rungs: Sequence[Finished], steadiness: float = 1.0) -> float:
    """How many times too narrow the interval of the largest rung would have been, foretold from the others; 1 at least.

    A ladder whose own top surprises it will be surprised by the run too.
    """
    rest = list(rungs[:-1])
    if len(rest) < LEAST_POINTS or len({one.rung.n for one in rest}) < LEAST_SIZES:
        return 1.0
    top = rungs[-1]
    unique = min(top.unique, top.tokens)
    if trust(top.tokens, steadiness) > 0.5:
        told = fit_early(points_of(rest)).predict(top.rung.n, top.tokens, unique)
    else:
        told = _fit_late(points_of(rest)).predict(*map(float, as_fresh(top.rung.n, top.tokens, unique)))
    off = math.log(top.loss / told.median)
    half = math.log((told.high80 if off > 0 else told.low80) / told.median)
    return min(max(1.0, abs(off / half)), MOST_DOUBT)


def points_of(rungs: Sequence[Finished], scale: float = 1.0) -> Points:
    """Rungs as points of a law, their losses times ``scale``."""
    return Points.of(
        [one.rung.n for one in rungs], [one.tokens for one in rungs], [scale * one.loss for one in rungs],
        unique=[min(one.unique, one.tokens) for one in rungs],
    )  # fmt: skip


def _fit_late(points: Points) -> BayesLaw:
    """The sum of power laws, of fresh tokens: what repeats are worth is as the early law has it."""
    return fit_bayes(Points.of(*as_fresh(points.n, points.d, points.unique), points.loss))


def _unique(tokens: float, unique: float) -> float:
    """Different tokens among those trained on."""
    return min(tokens, unique)


def _widened(told: Prediction, spread: float) -> Prediction:
    """Intervals with one more, independent, relative deviation."""

    def moved(end: float, z: float) -> float:
        half = math.log(end / told.median)
        return told.median * math.exp(math.copysign(math.hypot(half, z * spread), half))

    return replace(
        told, low80=moved(told.low80, Z80), high80=moved(told.high80, Z80),
        low95=moved(told.low95, Z95), high95=moved(told.high95, Z95),
    )  # fmt: skip
