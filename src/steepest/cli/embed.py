"""``steepest embed`` and ``steepest search``: use a run of contrastive learning."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.main import app
from steepest.cli.train import Runs
from steepest.cli.use import Run, Step

Column = Annotated[
    str | None, typer.Option("--text-column", help="Column of the text in TSV, CSV, JSON lines or Parquet.")
]


@app.command()
def embed(
    run: Run,
    file: Annotated[
        Path, typer.Argument(help="Texts: a line each, or a table (TSV, CSV, JSON lines, Parquet).")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A .npy or .jsonl file to write.  [default: beside FILE, as .npy]")
    ] = None,
    dims: Annotated[int | None, typer.Option(min=1, help="Only the first coordinates.")] = None,
    text_column: Column = None,
    step: Step = None,
    runs: Runs = Path("runs"),
) -> None:
    """Embed texts: one row of length one a text, in their order.

    Example: steepest embed run-001 texts.txt --out texts.npy
    """
    import numpy as np

    from steepest import api
    from steepest.data.labelled import read_texts
    from steepest.errors import ConfigError, StorageError

    target = out or file.with_suffix(".npy")
    if target.suffix not in (".npy", ".jsonl"):
        raise ConfigError(f'--out {target}: expected a name that ends in ".npy" or ".jsonl"')
    if not target.absolute().parent.is_dir():
        raise StorageError(f"{target}: no such folder; make {target.absolute().parent} first")
    texts = read_texts(file, text_column=text_column)
    vectors = api.load(run, runs=runs, step=step).embed(texts, dims=dims)
    try:
        if target.suffix == ".npy":
            np.save(target, vectors)
        else:
            lines = (json.dumps({"text": text, "embedding": row.tolist()}, ensure_ascii=False)
                     for text, row in zip(texts, vectors, strict=True))  # fmt: skip
            target.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{target}: cannot write: {error.strerror}") from None
    print(f"{target}: {len(vectors):,} embeddings of width {vectors.shape[1]}")


@app.command()
def search(
    run: Run,
    queries: Annotated[
        list[str], typer.Argument(help='What to look for; "-" reads a query a line from standard input.')
    ],
    corpus: Annotated[Path, typer.Option("--in", help="Texts to search in: a line each, or a table.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Texts to show for each query.")] = 5,
    text_column: Column = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a query.")] = False,
    step: Step = None,
    runs: Runs = Path("runs"),
) -> None:
    """Find the texts of a corpus nearest to a query, by embedding and by words as held-out rows weighed them.

    Example: steepest search run-001 --in corpus.txt "how do I resume a run"
    """
    from dataclasses import asdict

    from steepest import api
    from steepest.data.labelled import read_texts

    trained = api.load(run, runs=runs, step=step)
    asked = list(_queries(queries))
    for query, hits in zip(
        asked, trained.search(asked, read_texts(corpus, text_column=text_column), k=k), strict=True
    ):
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
            continue
        print(query)
        for hit in hits:
            print(f"    {hit.score:8.3f}  {hit.place + 1:>6}  {' '.join(hit.text.split())[:100]}")


def _queries(given: list[str]) -> Iterator[str]:
    import sys

    for query in given:
        if query == "-":
            yield from (line.strip() for line in sys.stdin if line.strip())
        else:
            yield query


def conclude(run: Any, command: Callable[[str], str]) -> None:
    """Say what was reached, with intervals, beside the baselines; name the winner and the commands to go on."""
    from steepest.cli.display import duration

    result, metric, said = run.result, run.objective.metric, run.result.conclusion
    told = metric.replace("_", " ")
    for part, named in said["judged"].items():
        for name, one in sorted(named.items(), key=lambda item: item[0] != "steepest"):
            label = {"development": "reached"}.get(part, part) if name == "steepest" else ""
            low, high = one["interval"]
            who = (
                f"on {one['rows']:,} {part} rows" if name == "steepest" else f"{name}, {one['seconds']:.1f} s"
            )
            print(f"{label:<10}{one[metric]:.4f} ({low:.4f} to {high:.4f}) {told} {who}")
            if name == "steepest":
                print(f"{'':<10}{one[f'dense_{metric}']:.4f} {told} by the embedding alone")
    if not said["judged"]:
        print(f"{'reached':<10}the end; nothing was held out to be judged on")
    if said.get("winner", "steepest") != "steepest":
        print(f"{'winner':<10}{said['winner']}: use it, or give more time or more rows")
    weights = ", ".join(f"{name} {value:.3g}" for name, value in said["weights"].items() if value > 0)
    print(
        f"{'':<10}weights of step {result.best_step:,} of {result.step:,}, at {duration(result.seconds)}; "
        f"scores believed: {weights}"
    )
    for warning in said.get("warnings", []):
        print(f"{'warning':<10}{warning}")
    if (proxy := said.get("proxy")) and proxy["differ"]:
        print(
            f"{'proxy':<10}the lowest loss was at step {proxy['lowest_loss_step']:,} ({told} "
            f"{proxy['metric_at_lowest_loss']:.4f}), the best {told} at step {proxy['best_step']:,} "
            f"({proxy['metric_at_best']:.4f}): the metric chose"
        )
    print(
        f"\ngo on with\n    {command('embed')} FILE\n    {command('search')} --in CORPUS QUERY\n"
        f"    {command('evaluate')} FILE\n    {command('report')} --open"
    )
