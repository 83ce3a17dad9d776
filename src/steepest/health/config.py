"""What can be set about a run's health checks."""

import math

from pydantic import Field

from steepest.config import RoomConfig

EVERY = 25  # steps between probes of two sequences, of a step of eight or more


class HealthConfig(RoomConfig):
    """How often a run's gradient flow is probed, and on how much.

    >>> HealthConfig().steps_between(8), HealthConfig().steps_between(1), HealthConfig(every=10).steps_between(1)
    (25, 100, 10)
    """

    every: int | None = Field(
        None,
        ge=0,
        description="steps between two probes; 0: none; left out, so many that they take under 2% of the time",
    )
    rows: int = Field(2, ge=1, description="sequences of the step's batch that a probe looks at")

    def steps_between(self, batch_rows: int) -> int:
        """Steps between two probes where a step has so many sequences: a probe of a quarter of them every 25."""
        if self.every is not None:
            return self.every
        return EVERY * max(1, math.ceil(4 * min(self.rows, batch_rows) / batch_rows))
