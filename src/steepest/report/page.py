"""One run as one HTML page that needs nothing beside it: styles, pictures and the little script are inside."""

import time
import zlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from steepest.report import charts, facts
from steepest.report.heat_map import gradient_flow_figure, update_figure
from steepest.report.judged import judged_table
from steepest.report.ladder_chart import ladder_figure
from steepest.report.reading import RunRecord, read_run, text
from steepest.report.sections import (
    baseline_table,
    budget_table,
    command_lines,
    event_table,
    sample_blocks,
    verdict_list,
)
from steepest.runs import RunFolder, write_atomically

HERE = Path(__file__).parent
MARK = (  # a ball on its way down a valley
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2 4C6 4 8 20 13 20S20 10 22 9" fill="none" '
    'stroke="var(--c1)" stroke-width="2.4" stroke-linecap="round"/><circle cx="6.6" cy="6.4" r="2.6" fill="var(--c2)"/></svg>'
)
FIGURES: tuple[Callable[[RunRecord], charts.Figure | None], ...] = (
    charts.loss_figure,
    charts.metric_figure,
    charts.gap_figure,
    charts.rate_figure,
    charts.gradient_norm_figure,
    charts.speed_figure,
    charts.memory_figure,
    update_figure,
    ladder_figure,
    gradient_flow_figure,
)


def write_report(folder: RunFolder, out: Path | None = None) -> Path:
    """Write the page of a run, by default as ``report.html`` into its folder; return where it is."""
    path = out or folder.path / "report.html"
    write_atomically(path, run_page(read_run(folder)))
    return path


def run_page(run: RunRecord) -> str:
    """The page of a run."""
    state, colour = facts.state_of(run)
    outcome = facts.outcome(run)
    reason = text(run.plan.get("unpredictable"))
    lead = [facts.asked(run), f"{outcome[0][0].upper()}{outcome[0][1:]}." if outcome else ""]
    lead.append(f"No loss was predicted: {reason}." if reason and not outcome else "")
    drawn = [figure for draw in FIGURES if (figure := _safely(draw, run)) is not None]
    body = [
        f'<div class="eyebrow">{MARK}<span>steepest</span><span>{escape(run.name)}</span>{badge(state, colour)}'
        f"{badge(*_short_outcome(outcome)) if outcome and run.finished else ''}</div>",
        f"<h1>{escape(facts.headline(run))}</h1>",
        f'<p class="lead">{escape(" ".join(part for part in lead if part))}</p>',
        key_figures(facts.key_figures(run)),
        _section("Health", verdict_list(run)),
        _section("Training", figure_grid(drawn)),
        _section("Beside simpler methods", judged_table(run)),
        _section("Figures on held-out data", baseline_table(run)),
        _section("What other budgets would reach", budget_table(run)),
        _section("Written by the model", sample_blocks(run)),
        _section("Events", event_table(run)),
        _section("Repeat it", command_lines(run)),
    ]
    if run.problems:
        listed = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems)
        body.append(_section("Not readable", f"<ul>{listed}</ul>"))
    return page(f"{run.name}: {facts.headline(run)}", "".join(body))


def page(title: str, body: str) -> str:
    """A whole document around a body."""
    style, script = (
        (HERE / "page.css").read_text(encoding="utf-8"),
        (HERE / "page.js").read_text(encoding="utf-8"),
    )
    written = time.strftime("%Y-%m-%d %H:%M")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><main>{body}"
        f"<footer>Written {written} by steepest from the files of the run folder. This page loads nothing.</footer>"
        f"</main><script>{script}</script></body></html>\n"
    )


def badge(words: str, colour: str) -> str:
    """A few words in a coloured frame."""
    return f'<span class="badge {colour}">{escape(words)}</span>'


def key_figures(figures: list[tuple[str, str, str]]) -> str:
    """The row of large figures."""
    cells = "".join(
        f'<div><dt>{escape(label)}</dt><dd><div class="value">{escape(value)}</div>'
        f'<div class="aside">{escape(aside)}</div></dd></div>'
        for label, value, aside in figures
    )
    return f'<dl class="figures">{cells}</dl>' if cells else ""


def figure_grid(figures: Sequence[charts.Figure]) -> str:
    """Pictures two in a row; one that is left over has its caption beside it."""
    narrow = [figure for figure in figures if not figure.wide]
    alone = narrow[-1] if len(narrow) % 2 else None
    parts = [figure_html(figure, alone=figure is alone) for figure in figures]
    return f'<div class="grid">{"".join(parts)}</div>' if parts else ""


def figure_html(figure: charts.Figure, *, alone: bool = False) -> str:
    """A picture with title, ways to look at it, legend and caption."""
    legend = "".join(f'<li><i class="{style}"></i>{escape(name)}</li>' for style, name in figure.legend)
    listed = f'<ul class="legend">{legend}</ul>' if legend else ""
    key = f"view-{zlib.crc32(figure.title.encode()):x}"
    parts = [f"<h3>{escape(figure.title[0].upper() + figure.title[1:])}</h3>"]
    many = len(figure.views) > 1
    for i, name in enumerate(figure.views if many else (), start=1):
        chosen = " checked" if i == 1 else ""
        parts.append(
            f'<input type="radio" name="{key}" id="{key}-{i}"{chosen}><label for="{key}-{i}">{escape(name)}</label>'
        )
    parts.append(listed)
    for i, svg in enumerate(figure.views.values(), start=1):
        parts.append(f'<div class="view {f"view-{i}" if many else "only"}">{svg}</div>')
    place = ' class="wide"' if figure.wide else ' class="alone"' if alone else ""
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f'<figure{place}><div class="views">{"".join(parts)}</div>{caption}</figure>'


def _safely(draw: Callable[[RunRecord], charts.Figure | None], run: RunRecord) -> charts.Figure | None:
    """A picture, or a line among the problems: what a file holds must never cost the page."""
    try:
        return draw(run)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        run.problems.append(f"{draw.__name__.replace('_', ' ')} could not be drawn: {error}")
        return None


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _short_outcome(outcome: tuple[str, str]) -> tuple[str, str]:
    words, colour = outcome
    return words.split(" (")[0], colour
