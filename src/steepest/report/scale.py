"""Scales of a plot: numbers to pixels, and where the ticks go.

A tick stands at a round number, one to two or five times a power of ten, so that nobody has to read 0.3333.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steepest.units import duration, in_bytes, in_count

Format = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """A map from numbers to pixels, linear or logarithmic.

    >>> Scale(0, 10, 0, 100)(5), Scale(1, 100, 0, 100, log=True)(10)
    (50.0, 50.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        # What lies far outside stays finite: the plot area clips it.
        return self.start + min(max(share, -9.0), 9.0) * (self.end - self.start)


def scale_over(
    values: Iterable[float], *, log: bool = False, zero: bool = False, margin: float = 0.05
) -> tuple[float, float]:
    """Limits that hold all values with a margin; sensible ones where there are none.

    >>> scale_over([1, 3], margin=0.0), scale_over([], log=True), scale_over([2, 2])
    ((1.0, 3.0), (0.1, 10.0), (1.0, 3.0))
    """
    kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not kept:
        return (0.1, 10.0) if log else (0.0, 1.0)
    low, high = min(kept), max(kept)
    if zero and not log:
        low = min(low, 0.0)
    if low == high:
        return (low / 2, high * 2) if log else (low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0))
    if log:
        factor = (high / low) ** margin
        return low / factor, high * factor
    pad = margin * (high - low)
    return (low if zero and low == 0 else low - pad), high + pad


def ticks(low: float, high: float, count: int = 5, *, log: bool = False) -> list[float]:
    """Round numbers inside the limits.

    >>> ticks(0, 10), ticks(1, 1000, log=True)
    ([0, 2, 4, 6, 8, 10], [1.0, 10.0, 100.0, 1000.0])
    """
    if log:
        return _log_ticks(low, high, count)
    step = _round_step((high - low) / max(count, 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0 for i in range(first, last + 1)]


def time_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round durations, in seconds.

    >>> time_ticks(0, 180, 4)
    [0, 60, 120, 180]
    """
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    step = next(
        (step for step in steps if (high - low) / step <= count),
        86400 * math.ceil((high - low) / 86400 / count),
    )
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def plain(value: float) -> str:
    """A number without needless digits.

    >>> plain(0.5), plain(2e-05), plain(12000), plain(0)
    ('0.5', '2e-5', '12k', '0')
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10_000:
        return in_count(value)
    if size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def _round_bytes(value: float) -> str:
    return in_bytes(value).replace(".0 ", " ").replace(".00 ", " ")


FORMATS: dict[str, Format] = {"plain": plain, "count": in_count, "bytes": _round_bytes, "seconds": duration}


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-300)))
    step = next((factor * power for factor in (1, 2, 5, 10) if rough <= factor * power * 1.0001), 10 * power)
    return int(step) if step >= 1 else step


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = math.log10(high / low)
    if decades < 0.7:  # too short for powers of ten: a logarithmic axis that looks linear
        return [value for value in ticks(low, high, count) if value > 0]
    stride = max(1, math.ceil(decades / max(count, 1)))
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    found = [
        factor * 10.0**exponent for exponent in exponents if exponent % stride == 0 for factor in factors
    ]
    return [value for value in found if low * 0.9999 <= value <= high * 1.0001]
