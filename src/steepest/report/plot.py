"""A plot as inline SVG: axes, lines, bands, points, marks. Colours are classes, so that light and dark both work.

The page's script reads a line's points back out of its path and its values out of the scale's limits (``data-``
attributes), which is all that a read-out under the pointer needs; without the script the plot is the same.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from steepest.report.scale import FORMATS, Scale, ticks, time_ticks

Points = Sequence[tuple[float, float]]

MOST_DOTS = 200  # of a line that is drawn anyway


@dataclass(frozen=True)
class Axis:
    """What an axis measures: its limits, its name, how its numbers are written ("plain", "count", "bytes", "seconds")."""

    low: float
    high: float
    label: str = ""
    form: str = "plain"
    log: bool = False


@dataclass
class Plot:
    """Draws on a canvas of ``width`` by ``height`` pixels; ``svg`` gives the picture."""

    width: int
    height: int
    x: Axis
    y: Axis
    left: int = 52
    right: int = 14
    top: int = 10
    bottom: int = 40
    hide_y_ticks: bool = False
    _marks: list[str] = field(default_factory=list)
    _over: list[str] = field(default_factory=list)  # not clipped to the plot area

    def __post_init__(self) -> None:
        self.to_x = Scale(self.x.low, self.x.high, self.left, self.width - self.right, self.x.log)
        self.to_y = Scale(self.y.low, self.y.high, self.height - self.bottom, self.top, self.y.log)

    def line(self, points: Points, style: str, name: str = "") -> None:
        """A line; a named one can be read out under the pointer. Values that are no numbers interrupt it."""
        path = self._path(thin(points, 2 * self.width))
        if path:
            told = f' data-name="{escape(name)}"' if name else ""
            self._marks.append(f'<path class="line {style}"{told} d="{path}"/>')

    def dots(self, points: Points, style: str, *, radius: float = 3, names: Sequence[str] = ()) -> None:
        """Points, each with a name that shows under the pointer; so many that they would touch are left to the line."""
        if len(points) > MOST_DOTS and not names:
            return
        for i, (x, y) in enumerate(points):
            if math.isfinite(x) and math.isfinite(y):
                title = f"<title>{escape(names[i])}</title>" if i < len(names) else ""
                shape = f'cx="{self.to_x(x):.1f}" cy="{self.to_y(y):.1f}" r="{radius}"'
                self._marks.append(f'<circle class="dot {style}" {shape}>{title}</circle>')

    def band(self, lows: Points, highs: Points, style: str) -> None:
        """The area between two lines."""
        path = self._path([*lows, *reversed(highs)])
        if path:
            self._marks.append(f'<path class="band {style}" d="{path}Z"/>')

    def vertical(self, x: float, style: str, label: str = "") -> None:
        """A mark across the plot at ``x``."""
        if self.x.low <= x <= self.x.high:
            place, title = f"{self.to_x(x):.1f}", f"<title>{escape(label)}</title>" if label else ""
            self._marks.append(
                f'<path class="mark {style}" d="M{place} {self.top}V{self.height - self.bottom}">{title}</path>'
            )

    def horizontal(self, y: float, style: str, label: str = "", *, below: bool = False) -> None:
        """A line across the plot at ``y``, named above its left end, or below its right one."""
        if self.y.low <= y <= self.y.high:
            place = self.to_y(y)
            self._marks.append(
                f'<path class="mark {style}" d="M{self.left} {place:.1f}H{self.width - self.right}"/>'
            )
            if label and below:
                self.text(self.width - self.right - 6, place + 15, label, style, anchor="end")
            elif label:
                self.text(self.left + 6, place - 5, label, style)

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Words at a pixel."""
        self._over.append(
            f'<text class="note {style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def picture(self, href: str) -> None:
        """An image stretched over the plot area."""
        width, height = self.width - self.left - self.right, self.height - self.top - self.bottom
        self._marks.append(
            f'<image x="{self.left}" y="{self.top}" width="{width}" height="{height}" preserveAspectRatio="none" '
            f'href="{href}"/>'
        )

    def svg(self, description: str, style: str = "") -> str:
        """The picture; ``description`` is its alternative in words."""
        x0, x1, y0, y1 = self.left, self.width - self.right, self.height - self.bottom, self.top
        limits = " ".join(
            f'data-{name}="{axis.low:.6g},{axis.high:.6g},{a},{b},{int(axis.log)},{axis.form}"'
            for name, axis, a, b in (("x", self.x, x0, x1), ("y", self.y, y0, y1))
        )
        key = f"clip-{zlib.crc32(repr((limits, self._marks)).encode()):x}"
        return (
            f'<svg class="plot {style}" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(description)}" {limits}>'
            f'<clipPath id="{key}"><rect x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}"/></clipPath>'
            f'{self._axes()}<g clip-path="url(#{key})">{"".join(self._marks)}</g>{"".join(self._over)}</svg>'
        )

    def _axes(self) -> str:
        x0, x1, y0, y1 = self.left, self.width - self.right, self.height - self.bottom, self.top
        parts = []
        write = FORMATS[self.x.form]
        for value in self._ticks(self.x, max(3, (x1 - x0) // 95)):
            place = f"{self.to_x(value):.1f}"
            parts.append(f'<path class="grid" d="M{place} {y0}V{y1}"/>')
            parts.append(
                f'<text class="tick" x="{place}" y="{y0 + 16}" text-anchor="middle">{write(value)}</text>'
            )
        write = FORMATS[self.y.form]
        for value in [] if self.hide_y_ticks else self._ticks(self.y, max(3, (y0 - y1) // 48)):
            at = self.to_y(value)
            parts.append(f'<path class="grid" d="M{x0} {at:.1f}H{x1}"/>')
            parts.append(
                f'<text class="tick" x="{x0 - 6}" y="{at + 4:.1f}" text-anchor="end">{write(value)}</text>'
            )
        parts.append(f'<path class="axis" d="M{x0} {y0}H{x1}"/>')
        if self.x.label:
            parts.append(f'<text class="label" x="{(x0 + x1) / 2:.0f}" y="{self.height - 6}" text-anchor="middle">'
                         f"{escape(self.x.label)}</text>")  # fmt: skip
        return "".join(parts)

    @staticmethod
    def _ticks(axis: Axis, count: int) -> list[float]:
        if axis.form == "seconds" and not axis.log:
            return time_ticks(axis.low, axis.high, count)
        return ticks(axis.low, axis.high, count, log=axis.log)

    def _path(self, points: Points) -> str:
        """A path in whole tenths of a pixel, with relative moves left out for legibility of the file."""
        out, drawing = [], False
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                drawing = False
                continue
            out.append(f"{'L' if drawing else 'M'}{self.to_x(x):.1f} {self.to_y(y):.1f}")
            drawing = True
        return "".join(out)


def thin(points: Points, limit: int) -> Points:
    """At most about ``limit`` points that look the same: the lowest and the highest of every stretch.

    >>> (500.0, 1.0) in thin([(float(i), float(i == 500)) for i in range(1000)], 20)
    True
    >>> thin([(0.0, 1.0)], 20)
    [(0.0, 1.0)]
    """
    if len(points) <= limit:
        return points
    size = math.ceil(2 * len(points) / limit)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        finite = [point for point in stretch if math.isfinite(point[1])] or [stretch[0]]
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])}
        kept.extend(sorted(ends))
    return kept
