r"""The transition gate: whether a small run is far enough along for a scaling law to speak about it.

A model first learns which tokens are frequent, stays at that loss for a while, and then begins to use the context:
the loss falls faster and faster, and only after that knee does it follow a power law. A ladder that lies before the
knee fits beautifully and predicts nothing (measured: 31 to 79 % too high). What gives it away is the local slope

    s(D) = - d ln L / d ln D

which grows through the knee and falls ever after. A rung at D tokens counts once

    s over the last octave (D/2 to D)  <=  s over the octave before (D/4 to D/2)  +  tolerance

and no longer run of the same ladder still steepens beyond D: a plateau looks tame until a longer run leaves it.

A run's own curve tells s only while its rate does not fall: a cooldown steepens any curve, and that of a larger model
more. Two runs of one size, each cooled over the same share of its length, are compared at the same shares x instead,

    s(x) = ln(L_short(x D_short) / L_long(x D_long)) / ln(D_long / D_short)

where the rate is the same; s around x = 1 is then the last octave's, s around x = 1/2 that of the octave before. Where
the losses that runs reached on held-out text are known, they say the former: training losses at the end of text that is
read again and again are those of a text half known by heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.errors import DataError
from steepest.scaling.laws import Array

TOLERANCE = 0.01  # by which a slope may seem to grow: noise of two evaluations half an octave apart
LEAST_RATIO = 3.0  # tokens a parameter, below which the laws' own residuals are several percent
LEAST_RUNGS, LEAST_SIZES = 4, 2
LAST = 2.0 ** np.array([-0.5, -0.25, 0])  # shares of two runs at which the last octave's slope is read
BEFORE = LAST / 2
APART = 1.8  # least factor between the lengths of two runs that are compared: nearer ones differ by noise
FLAT = 0.02  # a slope below which a run has stalled or not yet begun; laws of real data lie above


@dataclass(frozen=True)
class Rung:
    """Whether one run counts, and why not."""

    n: float
    d: float
    slope: float
    slope_before: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a ladder.

    Attributes:
        rungs: one a run, in the order given.
        predictable: whether enough rungs of enough sizes are left.
        reason: in words.
    """

    rungs: tuple[Rung, ...]
    predictable: bool
    reason: str

    @property
    def passed(self) -> list[int]:
        """Indices of the rungs that count."""
        return [i for i, rung in enumerate(self.rungs) if rung.passed]


def local_slopes(d: ArrayLike, loss: ArrayLike) -> tuple[float, float]:
    """-d ln L / d ln D over the last octave of a curve and over the octave before, by least squares in each.

    Needs losses (held-out ones, or training losses smoothed by the caller) from D/4 on.

    >>> d = 2.0 ** np.arange(20, 24, 0.25)
    >>> before, last = local_slopes(d, 2 + (d / d[0]) ** -0.5)[::-1]
    >>> bool(before > last)
    True
    """
    x, y = _logs(d, loss)
    if x.size < 3 or x[0] > x[-1] - 2 * np.log(2) + 0.2:
        raise DataError(
            f"the slope of a curve needs losses from a quarter of its tokens on; got {x.size} from "
            f"{np.exp(x[0]):,.0f} to {np.exp(x[-1]):,.0f} tokens: evaluate more often"
        )
    edges = x[-1] - np.log(2) * np.array([2, 1, 0])
    # Straight pieces joined at the octaves, fitted to all losses of both: one noisy evaluation weighs little.
    inside = x >= edges[0] - 0.2
    knots = np.clip(x[inside, None], edges[0] - 0.2, edges[2])
    first = np.minimum(knots, edges[1]) - edges[1]
    second = np.maximum(knots, edges[1]) - edges[1]
    columns = np.hstack([np.ones_like(first), first, second])
    solution = np.linalg.lstsq(columns, y[inside], rcond=None)[0]
    return float(-solution[2]), float(-solution[1])


def slopes_between(
    shorter: tuple[ArrayLike, ArrayLike], longer: tuple[ArrayLike, ArrayLike]
) -> tuple[float, float]:
    """The same two slopes from the curves of two runs of one size and one shape of schedule: free of what the rate does.

    >>> def cooled(end): # a power law that a falling rate bends down towards its end
    ...     d = end * 2.0 ** np.arange(-3, 0.1, 0.25)
    ...     return d, 4 * d ** -0.1 * (1 - 0.1 * (d / end) ** 4)
    >>> [round(slope, 3) for slope in local_slopes(*cooled(1e6))], [round(slope, 3) for slope in slopes_between(cooled(1e6), cooled(2e6))]
    ([0.23, 0.093], [0.1, 0.1])
    """
    ends, places = [], []
    for d, loss in (shorter, longer):
        x, y = _logs(d, loss)
        if x.size < 3 or x[0] > x[-1] + np.log(min(BEFORE)):
            raise DataError(
                f"the slope between two curves needs losses from a third of their tokens on; got {x.size} from "
                f"{np.exp(x[0]):,.0f} to {np.exp(x[-1]):,.0f} tokens: evaluate more often"
            )
        ends.append(x[-1])
        places.append([np.interp(x[-1] + np.log(share), x, y).mean() for share in (LAST, BEFORE)])
    octaves = ends[1] - ends[0]
    return float((places[0][0] - places[1][0]) / octaves), float((places[0][1] - places[1][1]) / octaves)


def _logs(d: ArrayLike, loss: ArrayLike) -> tuple[Array, Array]:
    """Logarithms of a curve, in the order of its tokens."""
    x, y = np.log(np.asarray(d, np.float64)), np.log(np.asarray(loss, np.float64))
    order = np.argsort(x)
    return x[order], y[order]


def judge_ladder(
    n: Sequence[float],
    curves: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    tolerance: float = TOLERANCE,
    least_ratio: float = LEAST_RATIO,
    cooled: bool = False,
    reached: Sequence[float] | None = None,
) -> Verdict:
    """Pass every run of a ladder through the gate.

    Args:
        n: parameters, one a run.
        curves: (tokens, losses) of each run as it went, the last being where the rung ends. Branches that cool
            down from one trunk may be given as the ends of all of them: (tokens, losses) of the size so far.
        tolerance: by which the slope may seem to grow.
        least_ratio: tokens a parameter, below which a rung does not count.
        cooled: whether the rate of every run falls towards its own end: runs of one size are judged by each other, and
            one that is alone by whether all pairs count.
        reached: with ``cooled``, the held-out loss of each run.

    >>> d = 2.0 ** np.arange(20, 25)
    >>> curves = [(d, 1.5 + k * (d / d[0]) ** -0.3) for k in (1.0, 0.9, 0.8, 0.7)]
    >>> judge_ladder([1e5, 2e5, 4e5, 8e5], curves).predictable
    True
    """
    ends = [float(np.max(np.asarray(d))) for d, _ in curves]
    pairs = pairs_of(n, ends) if cooled else {}
    measured: list[tuple[float, float] | str] = []
    for index, (d, loss) in enumerate(curves):
        try:
            if not cooled:
                measured.append(local_slopes(d, loss))
            elif index in pairs:
                short, long = pairs[index]
                last, before = slopes_between(curves[short], curves[long])
                if reached is not None:
                    last = float(np.log(reached[short] / reached[long]) / np.log(ends[long] / ends[short]))
                measured.append((last, before))
            else:
                measured.append((np.nan, np.nan))
        except DataError as error:
            measured.append(str(error))
    steepening = max((tokens for tokens, one in zip(ends, measured, strict=True)
                      if not isinstance(one, str) and one[0] > one[1] + tolerance), default=0.0)  # fmt: skip
    paired = [ends[index] for index in pairs]
    rungs = []
    for size, tokens, one in zip(n, ends, measured, strict=True):
        if isinstance(one, str):
            rungs.append(Rung(float(size), tokens, np.nan, np.nan, False, one))
            continue
        last, before = one
        reason = ""
        if last > before + tolerance:
            reason = f"its slope still grows ({before:.3f} to {last:.3f}): before the knee"
        elif tokens <= steepening:
            reason = f"a run of {steepening:,.0f} tokens still steepens: this one has not begun to"
        elif np.isnan(last) and not (paired and steepening == 0 and tokens >= min(paired)):
            reason = "no other run of its size to compare it with"
        elif last < FLAT:
            reason = f"its loss hardly falls (slope {last:.3f}): a plateau, or the end of what it can learn"
        elif tokens / size < least_ratio:
            reason = f"{tokens / size:.1f} tokens a parameter; below {least_ratio:g} no law holds"
        rungs.append(Rung(float(size), tokens, last, before, not reason, reason))
    left = [rung for rung in rungs if rung.passed]
    sizes = len({rung.n for rung in left})
    if len(left) >= LEAST_RUNGS and sizes >= LEAST_SIZES:
        return Verdict(tuple(rungs), True, f"{len(left)} of {len(rungs)} rungs count, {sizes} sizes")
    first = next((rung.reason for rung in rungs if not rung.passed), "too few rungs")
    return Verdict(
        tuple(rungs), False,
        f"not predictable at this budget: {len(left)} of {len(rungs)} rungs count, of {sizes} "
        f"size{'s' * (sizes != 1)}, and a law needs {LEAST_RUNGS} of {LEAST_SIZES}; {first}",
    )  # fmt: skip


def pairs_of(n: Sequence[float], tokens: Sequence[float]) -> dict[int, tuple[int, int]]:
    """For each run that is not the only one of its size: which two, shorter and longer, tell where it is on its way.

    Its own length and the next shorter one; for the shortest of a size, its own and the next longer.

    >>> pairs_of([10, 10, 10, 20], [100, 200, 400, 100])
    {0: (0, 1), 1: (0, 1), 2: (1, 2)}
    """
    found: dict[int, tuple[int, int]] = {}
    for index, (size, own) in enumerate(zip(n, tokens, strict=True)):
        same = [other for other in range(len(n)) if n[other] == size]
        shorter = [other for other in same if tokens[other] * APART <= own]
        longer = [other for other in same if own * APART <= tokens[other]]
        if shorter:
            found[index] = (max(shorter, key=lambda other: tokens[other]), index)
        elif longer:
            found[index] = (index, min(longer, key=lambda other: tokens[other]))
    return found
