"""``steepest generate``, ``evaluate`` and ``export``: use a trained run."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.main import app
from steepest.cli.train import Cache, Runs

Run = Annotated[str, typer.Argument(help="Name or folder of the run.")]
Step = Annotated[int | None, typer.Option(help="Use the checkpoint of this step.  [default: the best]")]


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help='Text to go on from; "-" reads it from standard input.')] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write, at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Only from the likeliest tokens that hold this mass."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the dice.")] = 0,
    step: Step = None,
    runs: Runs = Path("runs"),
) -> None:
    """Let a trained run write; the text streams as it is made.

    Example: steepest generate run-001 --prompt "The meaning of" --temperature 0.7
    """
    from steepest import api

    trained = api.load(run, runs=runs, step=step)
    text = sys.stdin.read() if prompt == "-" else prompt
    pieces = trained.stream(
        text, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    first = next(pieces, "")  # refused before anything is written
    sys.stdout.write(text + first)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
def evaluate(
    run: Run,
    data: Annotated[
        list[str] | None, typer.Argument(help="Text to evaluate on.  [default: the run's held-out part]")
    ] = None,
    step: Step = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Loss, bits per byte, perplexity and top-1 accuracy of a run, over whole texts.

    Example: steepest evaluate run-001 other.txt
    """
    import json

    from steepest import api

    trained = api.load(run, runs=runs, step=step)
    metrics = trained.evaluate(data or [], cache=cache, listen=_say_events)
    if as_json:
        print(json.dumps({"run": trained.folder.name, "step": trained.step, **metrics}))
        return
    print(
        f"{trained.folder.name} at step {trained.step:,} on {', '.join(data) if data else 'its held-out text'}"
    )
    for name, value in metrics.items():
        print(f"    {name.replace('_', ' '):<20}{value:.4f}")


@app.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="A new folder to write.")],
    step: Step = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a Hugging Face folder that transformers loads as a stock Qwen3, verified logit by logit.

    Example: steepest export run-001 my-model
    """
    from steepest import api

    difference = api.load(run, runs=runs, step=step).export(folder)
    print(f"written to {folder}")
    if difference is None:
        print("not verified: pip install -e '.[export]' brings transformers, which loads it back")
    else:
        print(f"verified: loaded back by transformers, its logits differ by {difference:.1g} at most")


def _say_events(name: str, fields: dict[str, Any]) -> None:
    """What is to be known of the data, beside the figures."""
    if name == "event":
        print(f"note: {fields['event']}", file=sys.stderr)
