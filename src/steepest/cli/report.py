"""``steepest report``: a run, or several beside each other, as one page that opens without a network."""

from pathlib import Path
from typing import Annotated

import typer

from steepest.cli.main import app
from steepest.cli.train import Runs


@app.command()
def report(
    run: Annotated[list[str], typer.Argument(help="Name or folder of the run; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the page here.  [default: report.html in the run folder; comparison.html here]"
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """One self-contained HTML page of a run, or of several compared; a half-written or broken run gives one too.

    Example: steepest report run-001 --open
    """
    from steepest.cli.display import in_bytes
    from steepest.report import write_comparison, write_report
    from steepest.runs import find_run

    folders = [find_run(name, runs) for name in run]
    if len(folders) == 1:
        path = write_report(folders[0], out)
    else:
        path = write_comparison(folders, out or Path("comparison.html"))
    print(f"{path} ({in_bytes(path.stat().st_size)})")
    if show:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
