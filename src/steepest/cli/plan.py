"""``steepest plan`` and ``steepest score``: what a budget would buy, and how past promises were kept."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.main import app, command_began
from steepest.cli.train import Cache, Set


@app.command()
def plan(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help='Files, folders, globs, "hf:NAME", "python-docs" or "python-stdlib".  [default: python-docs]'
        ),
    ] = None,
    more_data: Annotated[
        list[str] | None, typer.Option("--data", help="The same as DATA; repeatable.")
    ] = None,
    time: Annotated[str, typer.Option(help='Wall clock of the run that is planned: "10m", "2h".')] = "10m",
    memory: Annotated[
        str | None,
        typer.Option(help='Bytes that its process may take: "16GB".  [default: what is free, less a margin]'),
    ] = None,
    machine_factor: Annotated[
        float, typer.Option(help="How many times as fast as this one the machine is that will train.")
    ] = 1.0,
    out: Annotated[Path, typer.Option(help="Write the plan here.")] = Path("plan.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON instead.")] = False,
    config: Annotated[Path | None, typer.Option(help="A TOML file with the tables of run.toml.")] = None,
    changes: Set = None,
    cache: Cache = None,
) -> None:
    """Climb a ladder of small runs, say what a budget would buy, and train nothing else.

    Example: steepest plan corpus.txt --time 2h --memory 16GB
    """
    began = command_began()
    from steepest import api
    from steepest.cli.display import Display

    display = Display()
    try:
        found = api.plan(
            *(data or []), *(more_data or []), time=time, memory=memory, machine_factor=machine_factor, cache=cache,
            config=config, overrides=changes or [], listen=(lambda name, fields: None) if as_json else display,
            started=began,
        )  # fmt: skip
    finally:
        display.close()
    found.save(out)
    if as_json:
        print(json.dumps(found.record, indent=1, ensure_ascii=False))
        return
    display("plan", {"config": found.config, "plan": found.record})
    print(f"\ncarry it out with\n    steepest train --plan {out}")


@app.command()
def score(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    cache: Cache = None,
) -> None:
    """Every past prediction beside what was reached, and what they teach about the next interval.

    Example: steepest score
    """
    from rich.console import Console
    from rich.table import Table

    from steepest import api
    from steepest.cli.display import duration, in_count

    rows, record = api.scores(cache)
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if not rows:
        print("no prediction has been scored yet; make one with: steepest train --time 10m")
        return
    table = Table(box=None, header_style="bold")
    for column in (
        "run",
        "data",
        "time",
        "tokens",
        "predicted",
        "80% interval",
        "reached",
        "error",
        "inside",
    ):
        left = column in ("run", "data", "inside")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "data")
    for row in rows:
        table.add_row(
            Path(row["run"]).name, ", ".join(Path(source).name for source in row["data"]), duration(row["time"] or 0),
            in_count(row["tokens"]), f"{row['predicted']:.3f}", f"{row['low80']:.3f} to {row['high80']:.3f}",
            f"{row['reached']:.3f}", f"{row['error']:+.1%}", "yes" if row["inside80"] else "no",
        )  # fmt: skip
    Console().print(table)
    print(
        f"\n{record.count} prediction{'s' * (record.count != 1)}: {record.inside80:.0%} inside the 80% interval, "
        f"{record.inside95:.0%} inside the 95% one; error {record.median_error:.1%} in the median, "
        f"{record.p90_error:.1%} at the 90th percentile; the next intervals are multiplied by {record.multiplier:.2f}"
    )


def told_score(score: dict[str, Any]) -> list[str]:
    """A run's score in words: inside or outside, and what the forecasts had said."""
    lines = []
    if "predicted" in score:
        where = "inside" if score["inside80"] else "outside"
        lines.append(
            f"{where} the 80% interval {score['low80']:.3f} to {score['high80']:.3f}; predicted {score['predicted']:.3f}, "
            f"reached {score['error']:+.1%}"
        )
        if not score["inside80"]:
            lines[-1] += f" (for the tokens it really saw: {score['predicted_for_these_tokens']:.3f})"
    for one in score["forecasts"] if "predicted" not in score else []:
        lines.append(
            f"forecast at {one['mark']:.0%} of the run: {one['value']:.3f}, reached {one['error']:+.1%}"
        )
    return lines
