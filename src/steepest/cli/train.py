"""``steepest train``, ``resume`` and ``rewind``."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from steepest.cli.main import app, command_began

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder for encoded text.  [default: ~/.cache/steepest]")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help='Any setting, such as "optim.lr=1e-3"; repeatable.'),
]


@app.command()
def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help='Files, folders, globs, "-", "hf:NAME", "python-docs" or "python-stdlib".  [default: python-docs]'
        ),
    ] = None,
    more_data: Annotated[
        list[str] | None, typer.Option("--data", help="The same as DATA; repeatable.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help='"next-token", "classification", "contrastive" or "causal-graph".  [default: next-token]'
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The figure to be judged by.  [default: by the objective]")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help='Wall clock for the whole command: "90s", "10m", "2h".')
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in optimiser steps instead.")] = None,
    tokens: Annotated[str | None, typer.Option(help='Budget in tokens instead: "20M".')] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in passes over the text instead.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help='Bytes the process may take: "2GB".  [default: what is free, less a margin]'),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run.  [default: run-001, run-002 ...]")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Layers; the one dial of size.  [default: by the time]")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of the residual stream.  [default: from the depth]")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens a sequence.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help='"auto", "bpe", "bytes", "chars" or a tokenizer.json.')
    ] = None,
    vocab_size: Annotated[str | None, typer.Option(help='Size of the vocabulary, or "auto".')] = None,
    optimizer: Annotated[str | None, typer.Option(help='"muon", "adamw" or "sgd".')] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: by rule]")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens a step.  [default: by rule]")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text in JSONL, CSV or Parquet.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="A run to go on from: its trunk and tokenizer, whatever its objective."),
    ] = None,
    pretrain: Annotated[
        str,
        typer.Option(help='Budget for next-token training of the same texts first: "auto", "none", "20%".'),
    ] = "none",
    columns: Annotated[
        str | None, typer.Option(help='Columns of a table of pairs, in order of their roles: "title,body".')
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label, to classify.")] = None,
    dev: Annotated[str | None, typer.Option(help="Rows to choose by.  [default: split off the data]")] = None,
    test: Annotated[
        str | None, typer.Option(help="Rows to be judged on at the end, kept out of training.")
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(help="The causal graph of a table's columns, to train --objective causal-graph."),
    ] = None,
    missing: Annotated[
        Literal["drop", "category"] | None,
        typer.Option(
            help="A table's empty cells: leave such rows out, or make emptiness a value.  [default: refused]"
        ),
    ] = None,
    bins: Annotated[
        int | None, typer.Option(help="Cut a table's columns of numbers into so many quantiles.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the weights and of the order of the data.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help='Also log to "tensorboard", "wandb" or "trackio"; repeatable.'),
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Newest checkpoints to keep, besides the best.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with the tables of run.toml.")] = None,
    changes: Set = None,
    plan: Annotated[
        Path | None, typer.Option(help="Carry out this plan.json (see steepest plan), as it is.")
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-plan", help="Plan with small runs first, or take the size from speed alone."
        ),
    ] = True,
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Train a model on text within a budget, evaluate it, and show what it writes.

    Example: steepest train corpus.txt --time 10m
    """
    began = command_began()
    from steepest import api
    from steepest.config import parse_count

    def quoted(name: str | None) -> str | None:
        """A column may be called 1, which is no number here."""
        return None if name is None else json.dumps(name, ensure_ascii=False)

    options = {
        "objective.kind": objective,
        "objective.metric": quoted(metric),
        "objective.label_column": quoted(label_column),
        "objective.dev": quoted(dev),
        "objective.test": quoted(test),
        "objective.columns": None if columns is None else json.dumps(columns.split(",")),
        "objective.graph": quoted(graph),
        "objective.missing": missing,
        "objective.bins": bins,
        "data.text_column": quoted(text_column),
        "tokenizer.kind": tokenizer,
        "tokenizer.vocab_size": None
        if vocab_size is None
        else vocab_size
        if vocab_size == "auto"
        else parse_count(vocab_size),
        "model.depth": depth,
        "model.width": width,
        "model.context": context,
        "batches.batch_tokens": batch_tokens,
        "batches.seed": seed,
        "optim.optimizer": optimizer,
        "optim.lr": lr,
        "train.seed": seed,
        "train.keep": keep,
        "train.trackers": json.dumps(track) if track else None,
    }
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    with _display() as display:
        run = api.train(
            *(data or []),
            *(more_data or []),
            time=time,
            steps=steps,
            tokens=tokens,
            epochs=epochs,
            memory=memory,
            name=name,
            runs=runs,
            cache=cache,
            config=config,
            overrides=[*given, *(changes or [])],
            start=start,
            pretrain=pretrain,
            plan=plan,
            ladder=ladder,
            listen=display,
            started=began,
        )
    _conclude(run, runs)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name or folder of the run.")],
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Go on with an interrupted run from its newest whole checkpoint, bit for bit.

    Example: steepest resume run-001
    """
    began = command_began()
    from steepest import api

    with _display() as display:
        resumed = api.resume(run, runs=runs, cache=cache, listen=display, started=began)
    _conclude(resumed, runs)


@app.command()
def rewind(
    run: Annotated[str, typer.Argument(help="Name or folder of the run.")],
    to: Annotated[int, typer.Option(help="Step to go back to (the newest checkpoint at or before it).")],
    changes: Set = None,
    new_name: Annotated[
        str | None, typer.Option("--as", help="Leave the run as it is; go on under this name.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Only go back; train on later with resume.")] = False,
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Go back to an earlier step, change what was a mistake, and train on; what is abandoned is kept.

    Example: steepest rewind run-001 --to 400 --set optim.lr=1e-3
    """
    began = command_began()
    from steepest import api

    with _display() as display:
        rewound = api.rewind(
            run, to=to, overrides=changes or [], new_name=new_name, go_on=not stay,
            runs=runs, cache=cache, listen=display, started=began,
        )  # fmt: skip
    if isinstance(rewound, api.TrainedRun):
        _conclude(rewound, runs)
    else:
        print(f"go on with: {_command('resume', rewound.name, runs)}")


class _display:
    """A display that is always closed, so that a message never lands in the middle of a live line."""

    def __enter__(self) -> Any:
        from steepest.cli.display import Display

        self.display = Display()
        return self.display

    def __exit__(self, *error: object) -> None:
        self.display.close()


def _command(verb: str, name: str, runs: Path) -> str:
    where = "" if runs == Path("runs") else f" --runs {runs}"
    return f"steepest {verb} {name}{where}"


def _conclude(run: Any, runs: Path) -> None:
    """Say what was reached, show a sample, and name the commands to go on."""
    from steepest.cli.display import duration, in_count

    result, name = run.result, run.folder.name
    if not result.finished:
        print(f"stopped at step {result.step:,}, saved; go on with: {_command('resume', name, runs)}")
        raise typer.Exit(128 + (result.signal or 2))
    if run.config.objective.kind == "contrastive":
        from steepest.cli.embed import conclude as conclude_contrastive

        conclude_contrastive(run, lambda verb: _command(verb, name, runs))
        return
    if run.config.objective.kind == "classification":
        from steepest.cli.predict import conclude as conclude_classification

        conclude_classification(run, lambda verb: _command(verb, name, runs))
        return
    if run.config.objective.kind == "causal-graph":
        from steepest.cli.ask import conclude

        conclude(run, lambda verb: _command(verb, name, runs))
        return
    chosen = (
        ""
        if result.best_step == result.step
        else f" (weights of step {result.best_step:,}, the best held-out)"
    )
    metrics, metric = result.metrics, run.objective.metric
    trained = f"{in_count(result.tokens)} tokens in {result.step:,} steps"
    if not metrics:
        print(
            f"{'reached':<10}the end at {duration(result.seconds)}; nothing was held out to be judged on, {trained}"
        )
    else:
        print(
            f"{'reached':<10}{metrics[metric]:.4f} {metric.replace('_', ' ')} at {duration(result.seconds)} on "
            f"{in_count(result.evaluated_tokens)} held-out tokens{chosen}"
        )
        others = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != metric)
        if metric == "bits_per_byte":
            others = (
                f"loss {metrics['loss']:.4f} nats per token, perplexity {metrics['perplexity']:.2f}, "
                f"top-1 accuracy {metrics['accuracy']:.1%}"
            )
        print(f"{'':<10}{others}, {trained}")
    if run.score is not None:
        from steepest.cli.plan import told_score

        for line in told_score(run.score):
            print(f"{'':<10}{line}")
    if sample := result.conclusion.get("sample"):
        print("\nwritten by the model:\n\n    " + sample.strip("\n").replace("\n", "\n    "))
    print(
        f"\ngo on with\n"
        f'    {_command("generate", name, runs)} --prompt "..."\n'
        f"    {_command('evaluate', name, runs)} FILE\n"
        f"    {_command('report', name, runs)} --open\n"
        f"    {_command('rewind', name, runs)} --to STEP --set optim.lr=1e-3\n"
        f"    steepest runs"
    )
