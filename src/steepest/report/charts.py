"""The charts of one run that show it against time: loss, target metric, rate, gradient norm, speed, memory.

Each function looks for its data in the record and gives a ``Figure`` with a caption that says in words what the
picture shows, or ``None`` where there is nothing to show.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from steepest.report.facts import Prediction, forecasts, nats_to_target, prediction_of, spoken, target_metric
from steepest.report.plot import Axis, Plot, Points, thin
from steepest.report.reading import RunRecord, curve, number, table
from steepest.report.scale import plain, scale_over
from steepest.units import duration, in_bytes, in_count

WIDE, NARROW, COLUMN = (1040, 380), (400, 320), (500, 260)
HORIZONS = {"seconds": ("time", "seconds"), "tokens": ("tokens", "count"), "step": ("steps", "count")}


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
        views: names of ways to look at it (time, tokens ...), each with the SVG of it.
        wide: takes the page's whole width.
        legend: pairs of a colour's class and what it stands for.
    """

    title: str
    caption: str
    views: dict[str, str]
    wide: bool = False
    legend: tuple[tuple[str, str], ...] = ()


def both_sizes(draw: Callable[[int, int], str]) -> str:
    """A wide picture for a desk and a narrow one for a phone; the style sheet shows one of them."""
    return f'<div class="on-desk">{draw(*WIDE)}</div><div class="on-phone">{draw(*NARROW)}</div>'


def loss_figure(run: RunRecord) -> Figure | None:
    """Loss in bits per byte (or nats) on training and held-out text, with the predicted interval."""
    name = nats_to_target(run)[0]
    views = {said: view for horizon, (said, _) in HORIZONS.items() if (view := _loss_view(run, horizon))}
    if not views:
        return None
    legend = [("c0", "training text, smoothed"), ("c1", "held-out text")]
    if _prediction_of_loss(run) is not None:
        legend.append(("c3", "predicted before training"))
    smooth, held_out = _losses(run, "seconds")[1:]
    words = _loss_words(run, smooth, held_out, name)
    if forecasts(run):
        legend.append(("c4", "forecast of the end, while under way"))
    return Figure(f"Loss, in {spoken(name)}", words, views, wide=True, legend=tuple(legend))


def _losses(run: RunRecord, horizon: str) -> tuple[Points, Points, Points]:
    """Training loss, the same smoothed, and held-out loss, in the unit they are shown in."""
    name, factor = nats_to_target(run)
    trained = [(x, factor * y) for x, y in curve(run.steps, horizon, "loss")]
    return trained, smoothed(trained), curve(run.evaluations, horizon, "evaluation", name)


def _prediction_of_loss(run: RunRecord) -> Prediction | None:
    prediction = prediction_of(run)
    return prediction if prediction is not None and prediction.metric == nats_to_target(run)[0] else None


def _loss_view(run: RunRecord, horizon: str) -> str:
    """The loss against time, tokens or steps; empty where that was not logged."""
    said, form = HORIZONS[horizon]
    trained, smooth, held_out = _losses(run, horizon)
    if len(trained) < 2 and not held_out:
        return ""
    end = max(x for x, _ in (*trained[-1:], *held_out[-1:]))
    if end <= 0:
        return ""  # only the evaluation before the first step
    prediction = _prediction_of_loss(run)
    foretold = [(x, told) for step, told in forecasts(run) if told.metric == nats_to_target(run)[0]
                and (x := _at(run, step, horizon)) is not None]  # fmt: skip
    # The first moments would press everything else flat: the limits are those of the rest.
    shown = [y for x, y in (*smooth, *held_out) if x >= 0.04 * end]
    shown += [prediction.low, prediction.high] if prediction else []
    low, high = scale_over(shown or [y for _, y in (*smooth, *held_out)])

    def draw(width: int, height: int) -> str:
        plot = Plot(width, height, Axis(0, end * 1.001, said, form), Axis(low, high))
        if prediction is not None:
            lows, highs = ([(0, y), (end * 1.001, y)] for y in (prediction.low, prediction.high))
            plot.band(lows, highs, "c3")
            plot.horizontal(prediction.value, "c3", f"predicted {plain(prediction.value)}")
        for x in _skipped(run, horizon):
            plot.vertical(x, "bad", "step skipped")
        for x, told in foretold:
            plot.line([(x, told.low), (x, told.high)], "c4 strong")
            plot.dots([(x, told.value)], "c4", radius=3.5, names=[f"forecast {plain(told.value)}"])
        plot.line(trained, "raw")
        plot.line(smooth, "c0", "training, smoothed")
        plot.line(held_out, "c1 strong", "held out")
        plot.dots(held_out, "c1")
        return plot.svg(_loss_words(run, smooth, held_out, nats_to_target(run)[0]))

    return both_sizes(draw)


def metric_figure(run: RunRecord) -> Figure | None:
    """The target metric on held-out data, where it is not the loss already shown."""
    name = target_metric(run)
    if name in ("", "loss", "bits_per_byte"):
        name = "accuracy"
    trained = [
        record for record in run.evaluations if number(record.get("step"))
    ]  # not before the first step
    held_out = curve(trained, "seconds", "evaluation", name)
    if len(held_out) < 2:
        return None
    low, high = scale_over([y for _, y in held_out])
    plot = Plot(*COLUMN, Axis(0, held_out[-1][0] * 1.001, "time", "seconds"), Axis(low, high))
    plot.line(held_out, "c1 strong", spoken(name))
    plot.dots(held_out, "c1")
    words = f"{spoken(name).capitalize()} on held-out data went from {plain(held_out[0][1])} to {plain(held_out[-1][1])}."
    return Figure(spoken(name).capitalize(), words, {"time": plot.svg(words)})


def gap_figure(run: RunRecord) -> Figure | None:
    """Held-out loss less training loss: over-fitting shows as a gap that widens."""
    name, factor = nats_to_target(run)
    smooth = smoothed([(x, factor * y) for x, y in curve(run.steps, "seconds", "loss")])
    held_out = curve(run.evaluations, "seconds", "evaluation", name)
    times = [x for x, _ in smooth]
    gap = [
        (x, y - smooth[bisect_right(times, x) - 1][1])
        for x, y in held_out
        if times and x >= times[0] + 0.03 * times[-1]
    ]
    if len(gap) < 3:
        return None
    low, high = scale_over([0.0, *(y for _, y in gap)])
    plot = Plot(*COLUMN, Axis(0, gap[-1][0] * 1.001, "time", "seconds"), Axis(low, high))
    plot.horizontal(0.0, "quiet")
    plot.line(gap, "c2 strong", "gap")
    plot.dots(gap, "c2")
    words = f"Held-out less training loss ended at {gap[-1][1]:+.3f} {spoken(name)}; a gap that widens is over-fitting."
    return Figure("Gap between held-out and training loss", words, {"time": plot.svg(words)})


def rate_figure(run: RunRecord) -> Figure | None:
    """The learning rate: warm-up, plateau, cooldown."""
    points = curve(run.steps, "seconds", "lr")
    if len(points) < 2:
        return None
    peak, end = max(y for _, y in points), points[-1][1]
    plot = Plot(
        *COLUMN, Axis(0, points[-1][0] * 1.001, "time", "seconds"), Axis(*scale_over([0.0, peak], zero=True))
    )
    plot.line(points, "c2 strong", "learning rate")
    words = f"The learning rate peaked at {plain(peak)} and ended at {plain(end)}."
    return Figure("Learning rate", words, {"time": plot.svg(words)})


def gradient_norm_figure(run: RunRecord) -> Figure | None:
    """The norm of the whole gradient before clipping, the bound, and the steps that were skipped."""
    points = [(x, y) for x, y in curve(run.steps, "seconds", "grad_norm") if y > 0]
    if len(points) < 2:
        return None
    clip = number(table(run.config.get("optim")).get("clip"))
    low, high = scale_over([y for _, y in points] + ([clip] if clip else []), log=True)
    plot = Plot(*COLUMN, Axis(0, points[-1][0] * 1.001, "time", "seconds"), Axis(low, high, log=True))
    plot.line(points, "raw")
    plot.line(smoothed(points), "c4 strong", "gradient norm, smoothed")
    words = "The gradient's norm before clipping."
    if clip:
        plot.horizontal(clip, "quiet", f"clipped above {plain(clip)}")
        share = sum(y > clip for _, y in points) / len(points)
        some = (
            "No step"
            if not share
            else "Under 1% of the steps"
            if share < 0.01
            else f"{share:.0%} of the steps"
        )
        words = (
            f"{some} had a gradient norm above {plain(clip)} and {'was' if not share else 'were'} clipped."
        )
    skipped = _skipped(run, "seconds")
    for x in skipped:
        plot.vertical(x, "bad", "step skipped")
    words += f" {len(skipped)} step{'s' * (len(skipped) != 1)} skipped." if skipped else ""
    return Figure("Gradient norm", words, {"time": plot.svg(words)})


def speed_figure(run: RunRecord) -> Figure | None:
    """Tokens a second, so that a busy machine shows."""
    points = curve(run.steps, "seconds", "tokens")
    if len(points) < 8:
        return None
    stride = max(1, len(points) // 60)
    speeds = [
        ((a[0] + b[0]) / 2, (b[1] - a[1]) / (b[0] - a[0]))
        for a, b in pairwise(points[::stride])
        if b[0] > a[0]
    ]
    if not speeds:
        return None
    top = sorted(y for _, y in speeds)[int(0.98 * len(speeds))]
    plot = Plot(*COLUMN, Axis(0, points[-1][0] * 1.001, "time", "seconds"), Axis(0, top * 1.15, form="count"))
    plot.line(speeds, "c5 strong", "tokens a second")
    middle = sorted(y for _, y in speeds)[len(speeds) // 2]
    words = f"{in_count(middle)} tokens a second in the middle of the range."
    return Figure("Speed, tokens a second", words, {"time": plot.svg(words)})


def memory_figure(run: RunRecord) -> Figure | None:
    """Memory over time where it was recorded, beside what was predicted and what was allowed."""
    told = {**table(run.plan.get("memory")), **table(run.result.get("memory"))}
    limit, predicted = number(told.get("limit")), number(told.get("predicted"))
    points = [
        (x, y) for key in ("memory", "rss", "peak") for x, y in curve(run.others + run.steps, "seconds", key)
    ]
    measured = curve(
        [event for event in run.events if event.get("event") in ("memory measured", "memory split anew")],
        "step",
        "measured",
    )
    peak = number(told.get("measured")) or max([y for _, y in points + measured], default=None)
    if peak is None and predicted is None:
        return None
    if len(points) >= 2:
        points.sort()
        return _memory_line(points, predicted, limit, peak or points[-1][1])
    bars = [(name, value) for name, value in (("predicted", predicted), ("measured", peak)) if value]
    close = limit if limit and limit < 6 * max(value for _, value in bars) else None
    plot = Plot(COLUMN[0], 60 + 44 * len(bars), Axis(0, 1.12 * max([v for _, v in bars] + [close or 0]), "", "bytes"),
                Axis(0, len(bars)), left=80, right=34, top=20)  # fmt: skip
    for i, (name, value) in enumerate(reversed(bars)):
        plot.band(
            [(0, i + 0.2), (value, i + 0.2)],
            [(0, i + 0.8), (value, i + 0.8)],
            "c1 full" if name == "measured" else "c3 full",
        )
    if close:
        plot.vertical(close, "bad", f"limit {in_bytes(close)}")
    words = _memory_words(predicted, peak, limit)
    return Figure("Memory", words, {"": _bar_labels(plot, bars).svg(words)})


def _memory_line(points: Points, predicted: float | None, limit: float | None, peak: float) -> Figure:
    close = limit if limit and limit < 3 * peak else None
    plot = Plot(*COLUMN, Axis(0, points[-1][0] * 1.001, "time", "seconds"),
                Axis(0, 1.15 * max(peak, predicted or 0, close or 0), form="bytes"), left=64)  # fmt: skip
    plot.line(points, "c1 strong", "memory")
    if predicted:
        plot.horizontal(predicted, "c3", f"predicted {in_bytes(predicted)}", below=predicted < points[-1][1])
    if close:
        plot.horizontal(close, "bad", f"limit {in_bytes(close)}")
    words = _memory_words(predicted, peak, limit)
    return Figure("Memory", words, {"time": plot.svg(words)})


def _memory_words(predicted: float | None, peak: float | None, limit: float | None) -> str:
    said = []
    if peak:
        said.append(f"took {in_bytes(peak)} at its peak")
    if predicted:
        off = f" ({peak / predicted - 1:+.0%})" if peak else ""
        said.append(f"{in_bytes(predicted)} were predicted{off}")
    if limit:
        said.append(f"{in_bytes(limit)} were allowed")
    return f"The process {', '.join(said)}." if peak else f"{', '.join(said)}.".capitalize()


def _bar_labels(plot: Plot, bars: list[tuple[str, float]]) -> Plot:
    plot.hide_y_ticks = True
    for i, (name, value) in enumerate(reversed(bars)):
        middle = plot.to_y(i + 0.5) + 4
        plot.text(plot.left - 8, middle, name, anchor="end")
        plot.text(plot.left + 8, middle, in_bytes(value), "inside")
    return plot


def smoothed(points: Points, share: float = 0.02) -> list[tuple[float, float]]:
    """Exponential moving average over about a fiftieth of the points, without the bias of its beginning.

    >>> smoothed([(0.0, 2.0), (1.0, 2.0)])
    [(0.0, 2.0), (1.0, 2.0)]
    """
    keep = 1 - 1 / max(1.0, share * len(points))
    total = weight = 0.0
    found = []
    for x, y in points:
        if math.isfinite(y):
            total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        found.append((x, total / weight if weight else y))
    return list(thin(found, 1600))


def _at(run: RunRecord, step: float, horizon: str) -> float | None:
    """Where a step lies on a horizon."""
    points = curve(run.steps, "step", horizon)
    place = bisect_right([x for x, _ in points], step)
    return points[place - 1][1] if place else None


def _skipped(run: RunRecord, horizon: str) -> list[float]:
    marked: list[dict[str, Any]] = [
        record for record in run.steps if record.get("verdict") not in ("ok", None)
    ]
    return [x for record in marked if (x := number(record.get(horizon))) is not None]


def _loss_words(run: RunRecord, smooth: Points, held_out: Points, name: str) -> str:
    said = []
    if len(held_out) > 1:
        best = min(held_out, key=lambda point: point[1])
        said.append(
            f"Held-out loss went from {plain(held_out[0][1])} to {plain(held_out[-1][1])} {spoken(name)}"
        )
        if best[1] < held_out[-1][1]:
            said.append(f"its lowest was {plain(best[1])}")
    if smooth:
        said.append(f"training loss ended at {plain(smooth[-1][1])}")
    seconds = number(run.last.get("seconds"))
    if seconds:
        said.append(f"after {duration(seconds)}")
    return f"{', '.join(said)}." if said else "Loss."
