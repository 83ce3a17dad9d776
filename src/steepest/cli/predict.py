"""``steepest predict``: labels for texts."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from steepest.cli.main import app
from steepest.cli.train import Runs
from steepest.cli.use import Run, Step


@app.command()
def predict(
    run: Run,
    file: Annotated[
        str, typer.Argument(help='Texts: TSV, CSV, JSON lines, Parquet, or one a line; "-" reads lines.')
    ],
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text.  [default: the usual name]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines with all probabilities.")] = False,
    step: Step = None,
    runs: Runs = Path("runs"),
) -> None:
    """Label texts with a trained classifier: one line a text, its label and how likely that is.

    Example: steepest predict run-001 new.tsv --json
    """
    import json

    from steepest import api
    from steepest.data.labelled import read_texts

    trained = api.load(run, runs=runs, step=step)
    texts = sys.stdin.read().splitlines() if file == "-" else read_texts(file, text_column=text_column)
    found = trained.predict(texts)
    for text, label, row in zip(texts, found.labels, found.probabilities.tolist(), strict=True):
        if as_json:
            probabilities = {name: round(value, 6) for name, value in zip(found.names, row, strict=True)}
            print(
                json.dumps({"text": text, "label": label, "probabilities": probabilities}, ensure_ascii=False)
            )
        else:
            print(f"{label}\t{max(row):.4f}\t{text}")
