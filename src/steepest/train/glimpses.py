"""Short samples while a run is under way, so that one can see it learn: the report shows them in order.

A quarter, half and three quarters through, by default in runs of two minutes or more: there they cost less than a
thousandth of the time.
"""

from collections.abc import Callable

from steepest.train.loop import Record
from steepest.train.run import RunConfig
from steepest.train.state import TrainState

LEAST_TIME = 120.0  # seconds
TOKENS = 40


class Glimpses:
    """A hook that lets the model write a little, evenly over the run.

    Args:
        write: gives so many tokens of text; nothing, if the objective writes none.
        progress: share of the run behind.
        log: takes a line for ``metrics.jsonl``.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        write: Callable[[int], str],
        progress: Callable[[TrainState], float],
        log: Callable[[Record], None],
    ) -> None:
        asked, train = config.train.samples, config.train
        by_default = 3 if (train.time or 0.0) >= LEAST_TIME and train.sample_tokens else 0
        self.count = by_default if asked is None else asked
        self._write, self._progress, self._log = write, progress, log
        self._written: int | None = None

    def __call__(self, state: TrainState, record: Record) -> None:
        """After a step: write, if the next part of the run has begun."""
        if not self.count:
            return
        part = int(self._progress(state) * (self.count + 1))
        if self._written is None:  # a resumed run has written what lies behind
            self._written = part
        if self._written < part <= self.count and (text := self._write(TOKENS)):
            self._log({**{key: record[key] for key in ("step", "tokens", "seconds")}, "sample": text})
        self._written = max(self._written, part)
