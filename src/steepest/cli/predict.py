"""``steepest predict``: labels for texts; and what is said at the end of a run of classification."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
    from steepest.data.labelled import lines_of, read_texts

    trained = api.load(run, runs=runs, step=step)
    texts = lines_of(sys.stdin.read()) if file == "-" else read_texts(file, text_column=text_column)
    found = trained.predict(texts)
    for text, label, row in zip(texts, found.labels, found.probabilities.tolist(), strict=True):
        if as_json:
            probabilities = {name: round(value, 6) for name, value in zip(found.names, row, strict=True)}
            print(
                json.dumps({"text": text, "label": label, "probabilities": probabilities}, ensure_ascii=False)
            )
        else:
            print(f"{label}\t{max(row):.4f}\t{text}")


def conclude(run: Any, command: Callable[[str], str]) -> None:
    """Say what was reached, with intervals, beside the baselines; name the winner and the commands to go on."""
    from steepest.cli.display import duration

    result, metric = run.result, run.objective.metric
    told, said = metric.replace("_", " "), result.conclusion
    for part, named in said["judged"].items():
        for name, one in named.items():
            label = {"development": "reached"}.get(part, part) if name == "steepest" else ""
            who = (
                f"on {one['rows']:,} {part} texts"
                if name == "steepest"
                else f"{name}, {one['seconds']:.1f} s"
            )
            print(f"{label:<10}{_figure(one, metric)} {told} {who}")
    if said["winner"] != "steepest":
        print(f"{'winner':<10}{said['winner']}: use it, or give more time or more rows")
    blend = said["blend"]
    print(
        f"{'':<10}weights of step {result.best_step:,} of {result.step:,}, at {duration(result.seconds)}; believed: "
        f"{blend['lexical']:.2f} of the lexical model's logits, {blend['network']:.2f} of the network's"
    )
    if (proxy := said["proxy"]) and proxy["differ"]:
        print(
            f"{'proxy':<10}the lowest loss was at step {proxy['lowest_loss_step']:,} ({told} "
            f"{proxy['metric_at_lowest_loss']:.4f}), the best {told} at step {proxy['best_step']:,} "
            f"({proxy['metric_at_best']:.4f}, loss {proxy['loss_at_best']:.3f} against "
            f"{proxy['loss_at_lowest_loss']:.3f}): the metric chose"
        )
    print(
        f"\ngo on with\n    {command('predict')} FILE\n    {command('evaluate')} FILE\n    {command('report')} --open"
    )


def _figure(judged: dict[str, Any], metric: str) -> str:
    low, high = judged["interval"]
    return f"{judged[metric]:.4f} ({low:.4f} to {high:.4f})"
