"""A predicted loss: median, 80 % and 95 % intervals, and how far beyond the data it lies."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steepest.scaling.laws import Array


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to reach.

    Attributes:
        median: half of the possible losses lie below.
        low80, high80, low95, high95: ends of the intervals that hold 80 and 95 % of them.
        extrapolation: compute of the run over that of the largest run fitted.

    >>> from steepest.scaling.prediction import summarize
    >>> told = summarize(np.linspace(1.0, 2.0, 1001), extrapolation=4.0)
    >>> told.median, round(told.low80, 2), round(told.high95, 3), 1.2 in told, 1.05 in told
    (1.5, 1.1, 1.975, True, False)
    """

    median: float
    low80: float
    high80: float
    low95: float
    high95: float
    extrapolation: float

    def __contains__(self, loss: float) -> bool:
        return self.low80 <= loss <= self.high80

    def scaled(self, factor: float) -> "Prediction":
        """In another unit of loss, such as bits per byte from nats per token."""
        return Prediction(
            factor * self.median, factor * self.low80, factor * self.high80,
            factor * self.low95, factor * self.high95, self.extrapolation,
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def summarize(draws: Array, extrapolation: float) -> Prediction:
    """Quantiles of equally likely losses."""
    low95, low80, median, high80, high95 = np.quantile(draws, (0.025, 0.1, 0.5, 0.9, 0.975)).tolist()
    return Prediction(median, low80, high80, low95, high95, float(extrapolation))
