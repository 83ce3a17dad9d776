"""Gradient flow as a heat map, depth by step: how the gradient changes on its way down through the blocks.

Colour is the root mean square of the stream's gradient before a block over that after the last one, on a logarithmic
scale from 1/30 to 30, the bounds between which a stack is healthy: dark is vanishing, bright is exploding, the middle is
even. Lightness alone carries it, so it reads without colour and on paper (the map is viridis,
https://bids.github.io/colormap/). The picture is a PNG of one pixel a cell, written here in fifteen lines.
"""

import base64
import math
import struct
import zlib
from collections.abc import Sequence

from steepest.report.charts import COLUMN, NARROW, WIDE, Figure
from steepest.report.plot import Axis, Plot
from steepest.report.reading import RunRecord, Table, number, rows, table
from steepest.report.scale import plain, scale_over

BOUND = 30.0
COLUMNS = 240  # at most, of the picture
VIRIDIS = ((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
           (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37))  # fmt: skip

Grid = list[list[float | None]]


def gradient_flow(run: RunRecord) -> tuple[list[float], Grid]:
    """Steps, and at each step the stream's gradient before every block, first block first, and after the last."""
    steps: list[float] = []
    columns: Grid = []
    for record in run.others + run.steps:
        column = _stream(record)
        step = number(record.get("step"))
        if step is not None and column:
            steps.append(step)
            columns.append(column)
    return steps, columns


def gradient_flow_figure(run: RunRecord) -> Figure | None:
    """The heat map, or nothing where no probe wrote."""
    steps, columns = gradient_flow(run)
    depth = max(map(len, columns), default=0)
    if depth < 2 or not steps:
        return None
    stride = math.ceil(len(steps) / COLUMNS)
    steps, columns = steps[::stride], columns[::stride]
    cells = [[_relative(column, block) for column in columns] for block in reversed(range(depth))]
    href = (
        "data:image/png;base64,"
        + base64.b64encode(png([[_colour(cell) for cell in row] for row in cells])).decode()
    )
    last = [_relative(columns[-1], block) for block in range(depth)]
    worst = [ratio for column in columns if (ratio := _relative(column, 0)) is not None]
    words = _words(last[0], worst, depth, steps[-1])

    def draw(width: int, height: int) -> str:
        height = min(height, 90 + max(110, 22 * depth))
        first, end = steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1
        plot = Plot(
            width,
            height,
            Axis(first, end, "step", "count"),
            Axis(-0.5, depth - 0.5),
            left=70,
            hide_y_ticks=True,
        )
        plot.picture(href)
        every = math.ceil(depth / 12)
        for block in range(0, depth, every):
            name = f"block {block + 1}" if block < depth - 1 else "end"
            plot.text(plot.left - 8, plot.to_y(block) + 4, name, "tick", anchor="end")
        return plot.svg(words, "heat")

    pictures = f'<div class="on-desk">{draw(WIDE[0], 320)}</div><div class="on-phone">{draw(*NARROW)}</div>{_legend()}'
    return Figure("Gradient flow, depth by step", words, {"": pictures}, wide=True)


def update_figure(run: RunRecord) -> Figure | None:
    """How far a step moves the weights, relative to them, by role: the middle of the blocks."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in run.others:
        step = number(record.get("step"))
        for role, told in table(record.get("gradient_flow")).items():
            values = sorted(value for one in rows(table(told).get("update")) if (value := number(one)))
            if step is not None and values:
                lines.setdefault(role, []).append((step, values[len(values) // 2]))
    lines = {role: points for role, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    low, high = scale_over([y for points in lines.values() for _, y in points], log=True)
    end = max(points[-1][0] for points in lines.values())
    plot = Plot(*COLUMN, Axis(0, end, "step", "count"), Axis(low, high, log=True))
    for i, (role, points) in enumerate(lines.items()):
        plot.line(points, f"c{i % 6}", role)
    ends = ", ".join(f"{role} {plain(points[-1][1])}" for role, points in lines.items())
    words = f"One step moved the weights by this share of themselves at the end: {ends}."
    legend = tuple((f"c{i % 6}", role) for i, role in enumerate(lines))
    return Figure("Update over weight, a step", words, {"": plot.svg(words)}, legend=legend)


def png(pixels: Sequence[Sequence[tuple[int, int, int]]]) -> bytes:
    """An RGB picture as PNG (https://www.w3.org/TR/png/): signature, header, compressed rows, end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )


def _stream(record: Table) -> list[float | None]:
    """The gradients of the residual stream in one line of metrics: before each block, and after the last."""
    found = [
        number(value)
        for value in rows(table(table(record.get("gradient_flow")).get("stream")).get("gradient"))
    ]
    return found if any(value is not None for value in found) else []


def _relative(column: Sequence[float | None], block: int) -> float | None:
    value = column[block] if block < len(column) else None
    last = column[-1] if column else None
    return None if value is None or not last else value / last


def _colour(ratio: float | None) -> tuple[int, int, int]:
    if ratio is None:
        return (128, 128, 128)
    share = 0.5 + 0.5 * math.log(min(max(ratio, 1 / BOUND), BOUND)) / math.log(BOUND)
    place = share * (len(VIRIDIS) - 1)
    i = min(int(place), len(VIRIDIS) - 2)
    return tuple(round(a + (place - i) * (b - a)) for a, b in zip(VIRIDIS[i], VIRIDIS[i + 1], strict=True))  # type: ignore[return-value]


def _legend() -> str:
    stops = ",".join(f"rgb{colour}" for colour in VIRIDIS)
    return (
        '<p class="scale"><span>gradient over that after the last block: 1/30, vanishing</span>'
        f'<span class="ramp" style="background:linear-gradient(90deg,{stops})"></span><span>30, exploding</span></p>'
    )


def _words(last: float | None, firsts: list[float], depth: int, step: float) -> str:
    if last is None or not firsts:
        return "The gradient could not be measured at every block."
    furthest = max(firsts, key=lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)
    even = 1 / BOUND <= furthest <= BOUND
    flow = (
        "it flows evenly through the depth"
        if even
        else "it was vanishing"
        if furthest < 1
        else "it was exploding"
    )
    return (
        f"At step {step:,.0f} the gradient before the first of {depth - 1} blocks was {plain(last)} times that after the "
        f"last; the furthest from 1 that it ever was is {plain(furthest)}: {flow}."
    )
