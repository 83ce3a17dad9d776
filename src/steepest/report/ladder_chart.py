"""The ladder of small runs and the law fitted to them, on logarithmic axes, with the run that was predicted."""

from collections import defaultdict

from steepest.report.charts import COLUMN, Figure
from steepest.report.facts import prediction_of, reached, spoken, target_metric
from steepest.report.plot import Axis, Plot
from steepest.report.reading import RunRecord, Table, number, numbers, rows, table
from steepest.report.scale import plain, scale_over
from steepest.units import in_count

Point = tuple[float, float, float]  # parameters, tokens, loss


def ladder_points(run: RunRecord) -> list[Point]:
    """Parameters, tokens and loss of the small runs in a plan."""
    ladder = run.plan.get("ladder")
    found = []
    for point in map(table, rows(ladder) or rows(table(ladder).get("points"))):
        size = _first(point, "parameters", "n", "N", "params")
        tokens = _first(point, "tokens", "d", "D")
        loss = _first(point, target_metric(run), "bits_per_byte", "value", "loss")
        if size and tokens and loss:
            found.append((size, tokens, loss))
    return found


def law_at(law: Table, size: float, tokens: float) -> float | None:
    """The value of a law ``E + A / N^alpha + B / D^beta`` whose constants a plan holds."""
    constants = numbers(law.get("constants")) or numbers(law)
    names = {name.lower(): value for name, value in constants.items()}
    needed = [names.get(name) for name in ("e", "a", "alpha", "b", "beta")]
    if any(value is None for value in needed):
        return None
    floor, a, alpha, b, beta = (value or 0.0 for value in needed)
    try:
        return float(floor + a / size**alpha + b / tokens**beta)
    except (OverflowError, ZeroDivisionError):
        return None


def ladder_figure(run: RunRecord) -> Figure | None:
    """Loss against tokens, a colour for each size, the law as lines, the predicted run as a large point."""
    points = ladder_points(run)
    if len(points) < 2:
        return None
    law = table(run.plan.get("law"))
    by_size: dict[float, list[Point]] = defaultdict(list)
    for point in points:
        by_size[point[0]].append(point)
    prediction, found = prediction_of(run), reached(run)
    tokens, size = (
        number(run.last.get("tokens")) or number(run.plan.get("tokens")),
        number(run.plan.get("parameters")),
    )
    all_tokens = [point[1] for point in points] + ([tokens] if tokens else [])
    values = [point[2] for point in points] + ([prediction.low, prediction.high] if prediction else [])
    x_low, x_high = scale_over(all_tokens, log=True, margin=0.08)
    y_low, y_high = scale_over(values, log=True, margin=0.1)
    plot = Plot(*COLUMN, Axis(x_low, x_high, "tokens", "count", log=True), Axis(y_low, y_high, log=True))
    legend = []
    for i, (count, at) in enumerate(sorted(by_size.items())):
        style = f"c{i % 6}"
        drawn = [(x, y) for x in _between(x_low, x_high) if (y := law_at(law, count, x)) is not None]
        plot.line(drawn, f"{style} thin")
        plot.dots([(point[1], point[2]) for point in at], style, radius=4,
                  names=[f"{in_count(p[0])} parameters, {in_count(p[1])} tokens: {plain(p[2])}" for p in at])  # fmt: skip
        legend.append((style, f"{in_count(count)} parameters"))
    if tokens and size:
        drawn = [(x, y) for x in _between(x_low, x_high) if (y := law_at(law, size, x)) is not None]
        plot.line(drawn, "c0 dashed")
    if prediction and tokens:
        plot.band([(tokens / 1.02, prediction.low), (tokens * 1.02, prediction.low)],
                  [(tokens / 1.02, prediction.high), (tokens * 1.02, prediction.high)], "c3 full")  # fmt: skip
    if found and tokens and run.finished:
        plot.dots([(tokens, found[1])], "star", radius=6, names=[f"reached {plain(found[1])}"])
        legend.append(("star", "this run"))
    words = f"{len(points)} points of {len(by_size)} sizes were measured before this run"
    exponents = numbers(law.get("constants")) or numbers(law)
    if "alpha" in exponents and "beta" in exponents:
        words += f"; the law's exponents are {exponents['alpha']:.3f} in parameters and {exponents['beta']:.3f} in tokens"
    if prediction:
        words += f"; it foretold {plain(prediction.value)} {spoken(prediction.metric)}"
    return Figure("Ladder and law", f"{words}.", {"": plot.svg(words)}, legend=tuple(legend))


def _between(low: float, high: float, count: int = 40) -> list[float]:
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _first(point: Table, *names: str) -> float | None:
    return next((value for name in names if (value := number(point.get(name)))), None)
