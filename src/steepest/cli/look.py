"""``steepest tokenize`` and ``steepest runs``: look at data and at what was trained."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steepest.cli.main import app
from steepest.cli.train import Cache, Runs


@app.command()
def tokenize(
    data: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, globs ...  [default: python-docs]")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help='"auto", "bpe", "bytes", "chars" or a tokenizer.json.')
    ] = "auto",
    vocab_size: Annotated[str, typer.Option(help='Size of the vocabulary, or "auto".')] = "auto",
    text_column: Annotated[str, typer.Option(help="Column of the text in JSONL, CSV or Parquet.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Write the tokenizer.json here.")] = None,
    text: Annotated[str | None, typer.Option(help="Show how this text is cut.")] = None,
    cache: Cache = None,
) -> None:
    """Train a tokenizer on data, encode the data, and say what came out.

    Example: steepest tokenize corpus.txt --vocab-size 2048 --out tokenizer.json
    """
    from steepest.cli.display import Display, in_bytes
    from steepest.config import build, parse_count
    from steepest.data import DataConfig, default_cache, prepare_corpus
    from steepest.tokenizer import Tokenizer, TokenizerConfig

    size = vocab_size if vocab_size == "auto" else parse_count(vocab_size)
    display = Display()
    values = {"text_column": text_column, **({"sources": data} if data else {})}
    try:
        corpus = prepare_corpus(
            build(DataConfig, values), build(TokenizerConfig, {"kind": tokenizer, "vocab_size": size}),
            cache or default_cache(),
            progress=lambda stage, done, total: display("progress", {"stage": stage, "done": done, "total": total}),
        )  # fmt: skip
    finally:
        display.close()
    trained = Tokenizer.load(corpus.tokenizer)
    display("data", {"corpus": corpus, "tokenizer": trained})
    display.line(
        "stored", f"{corpus.path} ({in_bytes(corpus.train.tokens.nbytes + corpus.validation.tokens.nbytes)})"
    )
    if text is not None:
        pieces = [trained.decode([int(token)]) for token in trained.encode(text)]
        display.line("pieces", " ".join(repr(piece)[1:-1] for piece in pieces))
    if out is not None:
        trained.save(out)
        display.line("written", str(out))


@app.command(name="runs")
def list_all(
    runs: Runs = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """All runs: size, budget, how far they are, and what they reached.

    Example: steepest runs
    """
    from rich.console import Console
    from rich.table import Table

    from steepest.cli.display import duration, in_count
    from steepest.runs import list_runs, summarize_run

    rows = [summarize_run(run) for run in list_runs(runs)]
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    if not rows:
        print(f"no runs under {runs}; make one with: steepest train --time 3m")
        return
    table = Table(box=None, header_style="bold")
    for column in ("run", "state", "data", "shape", "steps", "tokens", "time", "bits/byte"):
        right = column in ("steps", "tokens", "time", "bits/byte")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "data")
    for row in rows:
        reached = row.get("bits_per_byte")
        table.add_row(
            row["run"], row["state"], ", ".join(Path(source).name for source in row["data"]), f"{row['depth']} x {row['width']}",
            f"{row['step']:,}", in_count(row["tokens"]), duration(row["seconds"]),
            "" if reached is None else f"{reached:.4f}",
        )  # fmt: skip
    Console().print(table)
