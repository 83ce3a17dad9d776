"""What a run and simpler methods reached on the same rows, with intervals, and what the loss would have chosen."""

from html import escape
from typing import Any

from steepest.report import facts
from steepest.report.reading import RunRecord, number, rows, table, text
from steepest.report.scale import plain

OWN = "steepest"  # what the run's own figures are called in result.json


def judged_table(run: RunRecord) -> str:
    """One row a method and part (test, development), the best of each part marked; nothing if none was judged."""
    metric = facts.target_metric(run)
    lines = []
    for part in ("test", "development"):
        named = table(table(run.result.get("judged")).get(part))
        figures = {
            name: value for name in named if (value := number(table(named[name]).get(metric))) is not None
        }
        if OWN not in figures:
            continue
        best = (min if facts.lower_is_better(metric) else max)(figures.values())
        for name in sorted(figures, key=lambda name: (name != OWN, name)):
            lines.append(_line(run, part, name, table(named[name]), metric, figures[name] == best))
    if not lines:
        return ""
    heads = ("judged on", "method", facts.spoken(metric), "95% interval", "seconds")
    head = "".join(
        f"<th{'' if at < 2 else ' class=right'}>{escape(one)}</th>" for at, one in enumerate(heads)
    )
    found = f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    return found + "".join(f"<p>{escape(sentence)}</p>" for sentence in _sentences(run, metric))


def _line(run: RunRecord, part: str, name: str, found: dict[str, Any], metric: str, best: bool) -> str:
    ends = [number(end) for end in rows(found.get("interval"))]
    interval = f"{ends[0]:.4g} to {ends[1]:.4g}" if len(ends) == 2 and None not in ends else ""
    count, seconds = number(found.get("rows")), number(found.get("seconds"))
    where = part if count is None else f"{part}, {count:,.0f} rows"
    value = plain(number(found.get(metric)) or 0.0)
    cells = (
        where,
        "this run" if name == OWN else name,
        value,
        interval,
        "" if seconds is None else f"{seconds:.1f}",
    )
    marked = (
        f"<b>{escape(cell)}</b>" if best and at in (1, 2) else escape(cell) for at, cell in enumerate(cells)
    )
    return "<tr>" + "".join(
        f'<td{"" if at < 2 else " class=right"}>{cell}</td>' for at, cell in enumerate(marked)
    ) + "</tr>"  # fmt: skip


def _sentences(run: RunRecord, metric: str) -> list[str]:
    told, name = [], facts.spoken(metric)
    if (winner := text(run.result.get("winner"))) and winner != OWN:
        told.append(f"The winner is {winner}: use it, or give more time or more rows.")
    proxy = table(run.result.get("proxy"))
    steps = [number(proxy.get(key)) for key in ("lowest_loss_step", "best_step")]
    values = [number(proxy.get(key)) for key in ("metric_at_lowest_loss", "metric_at_best")]
    if proxy.get("differ") and None not in (*steps, *values):
        told.append(
            f"The loss is only a proxy: it was lowest at step {steps[0]:,.0f}, where {name} was {values[0]:.4g}; "
            f"{name} was best at step {steps[1]:,.0f}, {values[1]:.4g}, and chose the weights. Both curves are above."
        )
    told += [text(warning) for warning in rows(run.result.get("warnings"))]
    return told
