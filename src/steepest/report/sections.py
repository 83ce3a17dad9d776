"""The parts of a page that are words and tables: verdicts, held-out figures, samples, events, commands."""

import base64
import math
import shlex
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from steepest.report import facts
from steepest.report.reading import RunRecord, Table, number, rows, table, text
from steepest.report.scale import plain
from steepest.units import duration, in_bytes

EVENTS, SAMPLES = 200, 6  # shown at most
QUIET = ("event", "at", "step", "decision")


def verdict_list(run: RunRecord) -> str:
    """What the health checks said, each in a sentence; that nothing was found is said too."""
    found = [event for event in run.events if event.get("event") == "verdict"] + rows(
        run.result.get("verdicts")
    )
    shown: dict[tuple[str, str], str] = {}
    for verdict in map(table, found):
        kind, sentence = text(verdict.get("kind")), text(verdict.get("sentence"))
        if not sentence:
            continue
        step, layer = number(verdict.get("step")), text(verdict.get("layer"))
        place = ", ".join(part for part in (kind, layer, "" if step is None else f"step {step:,.0f}") if part)
        shown.setdefault(
            (kind, layer),
            f'<li class="warn"><div class="do">{escape(place)}</div><div>{escape(sentence)}</div></li>',
        )
    for warning in filter(None, map(text, rows(run.result.get("warnings")))):
        shown.setdefault((warning, ""), f'<li class="warn"><div>{escape(warning)}</div></li>')
    if shown:
        return f'<ul class="verdicts">{"".join(shown.values())}</ul>'
    probes = sum("gradient_flow" in record for record in run.others + run.steps)
    if probes:
        told = f"Healthy: {probes} probes of the gradient flow, and no sickness recognised."
        return f'<ul class="verdicts"><li class="good"><div>{told}</div></li></ul>'
    return ""


def baseline_table(run: RunRecord) -> str:
    """Every held-out metric, with simpler methods beside it where there are any."""
    own, beside = facts.other_metrics(run), facts.baselines(run)
    if not own:
        return ""
    intervals = table(run.result.get("intervals")) or {facts.target_metric(run): run.result.get("interval")}
    names = "".join(f'<th class="right">{escape(name)}</th>' for name, _ in beside)
    lines = []
    for name, value in own:
        key = next((key for key in _metric_keys(run) if facts.spoken(key) == name), "loss")
        ends = [number(end) for end in rows(intervals.get(key))]
        shown = f"{value} ({ends[0]:.4g} to {ends[1]:.4g})" if len(ends) == 2 and None not in ends else value
        others = "".join(
            f'<td class="right">{plain(v) if (v := number(one.get(key))) is not None else ""}</td>'
            for _, one in beside
        )
        lines.append(f'<tr><td>{escape(name)}</td><td class="right">{escape(shown)}</td>{others}</tr>')
    return f'<div class="scroll"><table><tr><th>metric</th><th class="right">this run</th>{names}</tr>{"".join(lines)}</table></div>'


def budget_table(run: RunRecord) -> str:
    """What other budgets would reach, as the plan foretold."""
    own, others = facts.prediction_of(run), facts.other_budgets(run)
    if own is None or not others:
        return ""
    lines = [
        f'<tr><td>{escape(name)}</td><td class="right">{facts.figure(one.value)}</td>'
        f'<td class="right">{facts.figure(one.low)} to {facts.figure(one.high)}</td></tr>'
        for name, one in [("as asked", own), *others]
    ]
    head = (
        f'<tr><th>budget</th><th class="right">{escape(facts.spoken(own.metric))}</th>'
        f'<th class="right">{own.level:.0%} interval</th></tr>'
    )
    return f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


def sample_blocks(run: RunRecord) -> str:
    """Texts the model wrote, in their order, the last one at the end of the run."""
    told = [
        (number(record.get("step")), text(record.get("sample"))) for record in run.others + run.evaluations
    ]
    told = sorted((step or 0.0, words) for step, words in told if words.strip())
    shown = [(f"at step {step:,.0f}", words) for step, words in told[:: math.ceil(len(told) / SAMPLES) or 1]]
    if final := text(run.result.get("sample")).strip():
        shown.append(("at the end", final))
    parts = [
        f"<div><h4>{name}</h4><pre class='text'>{escape(words.strip())}</pre></div>" for name, words in shown
    ]
    return f'<div class="samples">{"".join(parts)}</div>' if parts else ""


def event_table(run: RunRecord) -> str:
    """What happened, in order; the same thing many times in a row is one line."""
    shown = [event for event in run.events if event.get("event") != "verdict"]
    lines = []
    for _, group in groupby(shown, key=lambda event: text(event.get("event"))):
        same = list(group)
        event = same[-1]
        steps = [step for one in same if (step := number(one.get("step"))) is not None]
        told = ", ".join(
            f"{key.replace('_', ' ')} {_value(key, value)}"
            for key, value in event.items()
            if key not in QUIET and value is not None
        )
        at = (
            ""
            if not steps
            else f"{steps[0]:,.0f}"
            if len(steps) == 1
            else f"{steps[0]:,.0f} to {steps[-1]:,.0f}"
        )
        name = text(event.get("event")) + (f" ({len(same)} times)" if len(same) > 1 else "")
        lines.append(f'<tr><td class="clock">{escape(text(event.get("at"))[11:19])}</td><td class="right">{at}</td>'
                     f"<td>{escape(name)}</td><td>{escape(told)}</td></tr>")  # fmt: skip
    if not lines:
        return ""
    head = '<tr><th class="clock">clock</th><th class="right">step</th><th>event</th><th>details</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(lines[-EVENTS:])}</table></div>'


def command_lines(run: RunRecord) -> str:
    """The commands that repeat the run and that use it, and the config they need."""
    found = (Path("runs") / run.name).absolute() == run.path.absolute()  # where the commands look for a name
    name = shlex.quote(run.name if found else str(run.path.absolute()))
    config = shlex.quote(str((run.path if found else run.path.absolute()) / "run.toml"))
    parts = []
    if run.config:
        timed = number(table(run.config.get("train")).get("time"))
        step = number(run.result.get("step"))
        lines = ["# the same settings and seed", f"steepest train --config {config}"]
        if timed and step:
            lines += ["", f"# the same number of steps, however fast the machine (in place of {duration(timed)})",
                      f"steepest train --config {config} --steps {step:.0f}"]  # fmt: skip
        if run.finished:
            lines += ["", "# use it"]
            if text(table(run.config.get("objective")).get("kind")) in ("", "next-token"):
                lines.append(f'steepest generate {name} --prompt "..."')
            lines.append(f"steepest evaluate {name} FILE")
        else:
            lines += ["", "# go on with it", f"steepest resume {name}"]
        parts.append(f'<pre class="command">{escape(chr(10).join(lines))}</pre>')
    if run.config_text:
        encoded = base64.b64encode(run.config_text.encode()).decode()
        parts.append(
            "<details><summary>run.toml, every setting of this run</summary>"
            f'<p><a download="run.toml" href="data:application/toml;base64,{encoded}">save run.toml</a></p>'
            f'<pre class="text">{escape(run.config_text.strip())}</pre></details>'
        )
    return "".join(parts)


def _metric_keys(run: RunRecord) -> list[str]:
    held_out: Table = table(run.result.get("held_out"))
    return list(held_out) or [
        key for record in run.evaluations[-1:] for key in table(record.get("evaluation"))
    ]


def _value(key: str, value: Any) -> str:
    figure = number(value)
    if figure is None:
        return (
            str(value)
            if isinstance(value, str)
            else ", ".join(map(str, value))
            if isinstance(value, list)
            else str(value)
        )
    if any(word in key for word in ("measured", "predicted", "limit", "memory")) and figure > 1e5:
        return in_bytes(figure)
    return f"{figure:,.0f}" if figure == int(figure) and abs(figure) < 1e7 else plain(figure)
