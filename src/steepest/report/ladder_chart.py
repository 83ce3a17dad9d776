"""The ladder of small runs and the law fitted to them, on logarithmic axes, with the run that was predicted."""

from collections import defaultdict
from dataclasses import dataclass

from steepest.report.charts import COLUMN, Figure
from steepest.report.facts import prediction_of, reached, spoken
from steepest.report.plot import Axis, Plot
from steepest.report.reading import RunRecord, Table, number, numbers, rows, table
from steepest.report.scale import plain, scale_over
from steepest.scaling.recorded import value_of
from steepest.units import in_count


@dataclass(frozen=True)
class Rung:
    """A small run: matrix parameters, tokens, loss, and whether it counted in the fit."""

    size: float
    tokens: float
    loss: float
    passed: bool


def ladder_points(run: RunRecord) -> list[Rung]:
    """The small runs in a plan."""
    found = []
    for point in map(table, rows(table(run.plan.get("ladder")).get("points"))):
        size, tokens, loss = (number(point.get(key)) for key in ("n", "tokens", "bits_per_byte"))
        if size and tokens and loss and min(size, tokens, loss) > 0:
            found.append(Rung(size, tokens, loss, point.get("passed") is not False))
    return found


def ladder_figure(run: RunRecord) -> Figure | None:
    """Loss against tokens, a colour for each size, the law as lines, the predicted run as a large point."""
    points = ladder_points(run)
    if len(points) < 2:
        return None
    law, told = table(run.plan.get("law")), table(run.plan.get("prediction"))
    by_size: dict[float, list[Rung]] = defaultdict(list)
    for point in points:
        by_size[point.size].append(point)
    prediction, found = prediction_of(run), reached(run)
    tokens = number(run.last.get("tokens")) or number(told.get("tokens"))
    size = number(told.get("matrix_parameters"))
    planned, epochs = number(run.plan.get("tokens")), number(run.plan.get("epochs"))
    different = planned / epochs if planned and epochs else None
    values = [point.loss for point in points] + ([prediction.low, prediction.high] if prediction else [])
    x_low, x_high = scale_over(
        [point.tokens for point in points] + ([tokens] if tokens else []), log=True, margin=0.08
    )
    plot = Plot(*COLUMN, Axis(x_low, x_high, "tokens", "count", log=True),
                Axis(*scale_over(values + ([found[1]] if found else []), log=True, margin=0.1), log=True))  # fmt: skip
    legend = []
    for i, (count, rungs) in enumerate(sorted(by_size.items())):
        style = f"c{i % 6}"
        plot.line(_drawn(law, count, different, x_low, x_high), f"{style} thin")
        for passed in (True, False):
            some = [rung for rung in rungs if rung.passed is passed]
            names = [f"{in_count(rung.size)} parameters, {in_count(rung.tokens)} tokens: {plain(rung.loss)}"
                     f"{'' if passed else ', not counted'}" for rung in some]  # fmt: skip
            at = [(rung.tokens, rung.loss) for rung in some]
            plot.dots(at, style if passed else f"{style} hollow", radius=4, names=names)
        legend.append((style, f"{in_count(count)} parameters"))
    if size:
        plot.line(_drawn(law, size, different, x_low, x_high), "c0 dashed")
    if prediction and tokens:
        plot.band([(tokens / 1.03, prediction.low), (tokens * 1.03, prediction.low)],
                  [(tokens / 1.03, prediction.high), (tokens * 1.03, prediction.high)], "c3 full")  # fmt: skip
        legend.append(("c3", "predicted interval"))
    if found and tokens and run.finished and found[0] == "bits_per_byte":
        plot.dots([(tokens, found[1])], "star", radius=6, names=[f"reached {plain(found[1])}"])
        legend.append(("star", "this run"))
    words = f"{len(points)} points of {len(by_size)} sizes were measured before this run"
    exponents = numbers(law)
    if law.get("form") == "early" and "c" in exponents:
        words += "; the law is that of the first million tokens"
    elif "alpha" in exponents and "beta" in exponents:
        words += f"; the law's exponents are {exponents['alpha']:.2f} in parameters and {exponents['beta']:.2f} in tokens"
    if prediction:
        words += f"; it foretold {plain(prediction.value)} {spoken(prediction.metric)}"
    return Figure("Ladder and law", f"{words}.", {"": plot.svg(words)}, legend=tuple(legend))


def _drawn(
    law: Table, size: float, different: float | None, low: float, high: float
) -> list[tuple[float, float]]:
    return [(x, y) for x in _between(low, high) if (y := value_of(law, size, x, different)) is not None]


def _between(low: float, high: float, count: int = 40) -> list[float]:
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]
