"""How long steps take: the pace to plan with, and a watch that notices when the machine has become slower."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median, median_low
from typing import Any

Event = dict[str, Any]

_RECENT, _NEWEST = 64, 5  # steps over which the pace is measured; and how many tell that it has changed


class StepTimeWatch:
    """Notices that steps have become much slower: the median of the last 8 exceeds 3 times the long-run median.

    It then forgets what it knew, so that the new pace becomes the measure and one change is told once.

    >>> watch = StepTimeWatch()
    >>> events = [watch.observe(step, 1.0 if step < 40 else 10.0) for step in range(60)]
    >>> [event for found in events for event in found]
    [{'event': 'step time jumped', 'step': 44, 'before': 1.0, 'now': 10.0}]
    """

    def __init__(self, newest: int = 8, window: int = 256, times: float = 3.0) -> None:
        self._newest, self._times = newest, times
        self._seconds: deque[float] = deque(maxlen=window)

    def observe(self, step: int, seconds: float) -> list[Event]:
        """Add one step's time; returns one event, or none."""
        self._seconds.append(seconds)
        history = list(self._seconds)
        if len(history) < 3 * self._newest:
            return []
        newest = median_low(history[-self._newest :])
        if newest <= self._times * median(history):
            return []
        before = median(history[: -self._newest])
        self._seconds.clear()
        return [{"event": "step time jumped", "step": step, "before": before, "now": newest}]


class Pace:
    """Seconds a step takes, with a share of what happens between steps; deaf to single stalls, quick to change.

    The mean of the last 64 steps, each counted as at most 4 times their median; of the last 5 alone once their
    median has left the other's by a factor of 2. Time between steps, and beyond that bound, is added in proportion.

    >>> pace = Pace(expected=None)
    >>> for seconds in (30.0, 1.0, 1.0, 1.0, 9.0, 1.0):
    ...     pace.add(seconds, interval=seconds, stall=0.5)
    >>> round(pace.seconds(budget=1000.0), 1)
    1.6
    """

    def __init__(self, expected: float | None) -> None:
        self.expected = expected
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self.count, self._usual, self._extra = 0, 0.0, 0.0

    def add(self, seconds: float, *, interval: float, stall: float) -> None:
        """Note a step, and the wall clock since the one before; a stall counts up to ``stall`` seconds."""
        self.count += 1
        if self.count == 2:  # the first step pays for allocation and compilation
            self._steps.clear()
        self._steps.append(max(seconds, 1e-9))
        usual = min(self._steps[-1], 4 * median(self._newest()))
        self._usual += usual
        self._extra += min(max(interval - usual, 0.0), stall)

    def seconds(self, budget: float) -> float:
        """Seconds to expect from one more step of a run of ``budget`` seconds."""
        newest, recent = self._newest(), list(self._steps)
        usual = newest if not 0.5 <= median(newest) / median(recent) <= 2 else recent
        bound = 4 * median(usual)
        mean = math.fsum(min(value, bound) for value in usual) / len(usual)
        # The tenth of the budget keeps one early interruption from looking like a habit.
        return mean * (1 + self._extra / (self._usual + 0.1 * budget))

    def state_dict(self) -> dict[str, Any]:
        """State as JSON."""
        return {
            "steps": list(self._steps),
            "count": self.count,
            "usual": self._usual,
            "extra": self._extra,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._steps = deque(state["steps"], maxlen=_RECENT)
        self.count, self._usual, self._extra = state["count"], state["usual"], state["extra"]

    def _newest(self) -> list[float]:
        return list(self._steps)[-_NEWEST:]
