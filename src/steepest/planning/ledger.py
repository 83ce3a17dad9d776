r"""The ledger: every prediction of this user beside what was reached, and what it teaches about the intervals.

    <cache>/predictions.jsonl     one line a finished run that had been promised a loss

An interval is honest if eight in ten outcomes fall into it. Each outcome says how many half-widths it lay away,

    z = |ln(reached / predicted)| / half-width of the 80 % interval as the law gave it,

and half-widths are multiplied by the 80 % quantile of z, which is 1 if they were right all along. A few outcomes say
little, so the multiplier is drawn towards 1 as if it had been seen ``BELIEF`` times:

    ln k = n / (n + BELIEF)  ln z_80
"""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.runs import append_lines, read_lines

BELIEF = 8.0
LEAST, MOST = 0.7, 3.0  # of the multiplier
LOSSES = ("predicted", "reached", "low80", "high80")


@dataclass(frozen=True)
class Record:
    """What a user's predictions came to.

    Attributes:
        count: of scored predictions.
        inside80, inside95: shares of them inside their intervals.
        median_error, p90_error: of \\|reached / predicted - 1\\|.
        multiplier: that the next intervals are widened by.
    """

    count: int
    inside80: float
    inside95: float
    median_error: float
    p90_error: float
    multiplier: float


class Ledger:
    """The predictions kept in a cache."""

    def __init__(self, cache: Path) -> None:
        self.file = cache / "predictions.jsonl"

    def add(self, score: dict[str, Any]) -> None:
        """Keep a score; the same run's older one counts no more."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self.file, score)

    def scores(self) -> list[dict[str, Any]]:
        """The newest score of every run, oldest first."""
        found: dict[str, dict[str, Any]] = {}
        for score in filter(whole, read_lines(self.file)):
            found.pop(score["run"], None)
            found[score["run"]] = score
        return list(found.values())

    def record(self) -> Record:
        """What they came to."""
        scores = self.scores()
        errors = sorted(abs(score["error"]) for score in scores)
        if not scores:
            return Record(0, math.nan, math.nan, math.nan, math.nan, 1.0)
        return Record(
            len(scores),
            statistics.fmean(score["inside80"] for score in scores),
            statistics.fmean(score["inside95"] for score in scores),
            statistics.median(errors),
            quantile(errors, 0.9),
            multiplier_of(scores),
        )

    @property
    def multiplier(self) -> float:
        """What half-widths are multiplied by."""
        return multiplier_of(self.scores())


def whole(score: dict[str, Any]) -> bool:
    """Whether a score says all that is counted: lines of a file that anybody may have edited.

    >>> whole({"run": "a", "predicted": 1.0})
    False
    """
    figures = [score.get(key) for key in (*LOSSES, "error", "multiplier")]
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in figures):
        return False
    if not score["low80"] < score["predicted"] < score["high80"]:
        return False
    return (
        "run" in score
        and all(score[key] > 0 for key in (*LOSSES, "multiplier"))
        and {"inside80", "inside95"} <= score.keys()
    )


def multiplier_of(scores: list[dict[str, Any]]) -> float:
    """From scores: 1 without any, wider where more than one in five fell outside.

    >>> hit = {"predicted": 1.0, "low80": 0.9, "high80": 1.1, "reached": 1.02, "multiplier": 1.0}
    >>> miss = {**hit, "reached": 1.2}
    >>> multiplier_of([]), multiplier_of([miss] * 8) > 1.2, multiplier_of([hit] * 8) < 1
    (1.0, True, True)
    """
    if not scores:
        return 1.0
    distances = sorted(_half_widths(score) for score in scores)
    pulled = len(scores) / (len(scores) + BELIEF) * math.log(max(quantile(distances, 0.8), 1e-3))
    return min(max(math.exp(pulled), LEAST), MOST)


def quantile(ordered: list[float], share: float) -> float:
    """Of ordered values, between neighbours in a line.

    >>> quantile([1.0, 2.0, 3.0], 0.75)
    2.5
    """
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _half_widths(score: dict[str, Any]) -> float:
    """How far off, in half-widths as they were before any multiplier."""
    off = math.log(score["reached"] / score["predicted"])
    end = score["high80"] if off > 0 else score["low80"]
    return float(score["multiplier"]) * abs(off / math.log(end / score["predicted"]))
