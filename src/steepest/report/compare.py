"""Several runs on one page: who reached what, their curves over one another, and the settings that differ."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from steepest.report import facts
from steepest.report.charts import COLUMN, HORIZONS, Figure, both_sizes, smoothed
from steepest.report.page import MARK, figure_grid, page
from steepest.report.plot import Axis, Plot
from steepest.report.reading import RunRecord, Table, curve, number, read_run, table
from steepest.report.scale import plain, scale_over
from steepest.runs import RunFolder, write_atomically
from steepest.units import duration, in_bytes, in_count

COLOURS = ("c1", "c2", "c3", "c4", "c5", "c0")
Line = tuple[str, list[tuple[float, float]], str]
UNTOLD = ("train.expected_tokens", "format")  # measured, not chosen


def write_comparison(folders: Sequence[RunFolder], out: Path) -> Path:
    """Write the page that compares runs; return where it is."""
    write_atomically(out, comparison_page([read_run(folder) for folder in folders]))
    return out


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """The page that compares runs."""
    best = best_run(runs)
    metric = facts.target_metric(best) if best else "loss"
    found = facts.reached(best) if best else None
    title = (
        f"{best.name} reached {facts.figure(found[1])} {facts.spoken(metric)}"
        if best and found
        else "Nothing measured yet"
    )
    others = [run.name for run in runs if run is not best]
    lead = f"The best of {len(runs)} runs; the others are {', '.join(others)}." if best else ""
    figures = [
        overlay(runs, f"Held-out {facts.spoken(metric)}", metric, wide=True),
        overlay(runs, "Training loss, smoothed", "", wide=False),
        overlay(runs, "Learning rate", "lr", wide=False),
    ]
    pictures = figure_grid([figure for figure in figures if figure is not None])
    differing = differences(runs)
    body = [
        f'<div class="eyebrow">{MARK}<span>steepest</span><span>{len(runs)} runs compared</span></div>',
        f"<h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p>",
        f"<section><h2>Reached</h2>{reached_table(runs, best, metric)}</section>",
        f"<section><h2>Curves</h2>{pictures}</section>" if pictures else "",
        f"<section><h2>Settings that differ</h2>{difference_table(runs, differing)}</section>"
        if differing
        else "",
    ]
    problems = [f"<li>{escape(f'{run.name}: {problem}')}</li>" for run in runs for problem in run.problems]
    if problems:
        body.append(f"<section><h2>Not readable</h2><ul>{''.join(problems)}</ul></section>")
    return page(title, "".join(body))


def best_run(runs: Sequence[RunRecord]) -> RunRecord | None:
    """The run whose target metric is best, among those that have the first one's metric."""
    scored = [(run, found) for run in runs if (found := facts.reached(run)) is not None]
    if not scored:
        return None
    metric = scored[0][1][0]
    same = [(run, found[1]) for run, found in scored if found[0] == metric]
    return (min if facts.lower_is_better(metric) else max)(same, key=lambda pair: pair[1])[0]


def overlay(runs: Sequence[RunRecord], title: str, metric: str, *, wide: bool) -> Figure | None:
    """A curve of every run over the others, against time, tokens and steps."""
    views = {
        said: view
        for horizon, (said, _) in HORIZONS.items()
        if (view := _overlay_view(runs, title, metric, horizon, wide=wide))
    }
    if not views:
        return None
    legend = tuple((COLOURS[i % len(COLOURS)], run.name) for i, run in enumerate(runs))
    return Figure(title, _words(title, _curves(runs, "seconds", metric)), views, wide, legend)


def _overlay_view(runs: Sequence[RunRecord], title: str, metric: str, horizon: str, *, wide: bool) -> str:
    said, form = HORIZONS[horizon]
    lines = [line for line in _curves(runs, horizon, metric) if len(line[1]) > 1]
    if not lines:
        return ""
    end = max(points[-1][0] for _, points, _ in lines)
    if end <= 0:
        return ""  # only evaluations before the first step
    shown = [y for _, points, _ in lines for x, y in points if x >= 0.04 * points[-1][0]]
    low, high = scale_over(shown, zero=metric == "lr")

    def draw(width: int, height: int) -> str:
        plot = Plot(width, height, Axis(0, end * 1.001, said, form), Axis(low, high))
        for name, points, style in lines:
            plot.line(points, f"{style} strong", name)
            if metric not in ("", "lr"):
                plot.dots(points, style)
        return plot.svg(_words(title, lines))

    return both_sizes(draw) if wide else draw(*COLUMN)


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with each run's value."""
    flat = [_flatten(run.config) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [
        (key, [one.get(key, "") for one in flat])
        for key in keys
        if key not in UNTOLD and len({one.get(key) for one in flat}) > 1
    ]


def difference_table(runs: Sequence[RunRecord], differing: list[tuple[str, list[str]]]) -> str:
    """The same as a table."""
    head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    lines = [
        f"<tr><td><code>{escape(key)}</code></td>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for key, values in differing
    ]
    return f'<div class="scroll"><table><tr><th>setting</th>{head}</tr>{"".join(lines)}</table></div>'


def reached_table(runs: Sequence[RunRecord], best: RunRecord | None, metric: str) -> str:
    """What each run reached and what it took."""
    lines = []
    for run in runs:
        found, last = facts.reached(run), run.last
        prediction = facts.prediction_of(run)
        memory = number(table(run.result.get("memory")).get("measured"))
        cells = [
            facts.figure(found[1]) if found and found[0] == metric else "",
            f"{facts.figure(prediction.low)} to {facts.figure(prediction.high)}" if prediction else "",
            duration(number(last.get("seconds")) or 0),
            in_count(number(last.get("tokens")) or 0),
            in_count(parameters) if (parameters := number(run.plan.get("parameters"))) else "",
            in_bytes(memory) if memory else "",
        ]
        style = [' class="right best"' if run is best else ' class="right"'] + [' class="right"'] * (
            len(cells) - 1
        )
        told = "".join(f"<td{one}>{escape(cell)}</td>" for one, cell in zip(style, cells, strict=True))
        lines.append(f"<tr><td>{escape(run.name)}</td><td>{facts.state_of(run)[0]}</td>{told}</tr>")
    names = (facts.spoken(metric), "predicted", "time", "tokens", "parameters", "memory")
    head = "".join(f'<th class="right">{escape(name)}</th>' for name in names)
    return (
        f'<div class="scroll"><table><tr><th>run</th><th>state</th>{head}</tr>{"".join(lines)}</table></div>'
    )


def _curves(runs: Sequence[RunRecord], horizon: str, metric: str) -> list[Line]:
    """Name, points and colour of each run's curve of a metric, of the rate, or of the training loss."""
    found: list[Line] = []
    for i, run in enumerate(runs):
        if metric == "lr":
            points = curve(run.steps, horizon, "lr")
        elif metric:
            points = curve(run.evaluations, horizon, "evaluation", metric)
        else:
            factor = facts.nats_to_target(run)[1]
            points = smoothed([(x, factor * y) for x, y in curve(run.steps, horizon, "loss")])
        found.append((run.name, points, COLOURS[i % len(COLOURS)]))
    return found


def _words(title: str, lines: Sequence[Line]) -> str:
    ends = ", ".join(f"{name} {plain(points[-1][1])}" for name, points, _ in lines if points)
    return f"{title} at the end: {ends}."


def _flatten(values: Table, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return {key: value for key, value in found.items() if key not in UNTOLD}
