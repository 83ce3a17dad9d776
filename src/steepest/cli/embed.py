"""``steepest embed`` and ``steepest search``: use a run of contrastive learning."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

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
    from steepest.data.texts import read_texts
    from steepest.errors import ConfigError

    target = out or file.with_suffix(".npy")
    if target.suffix not in (".npy", ".jsonl"):
        raise ConfigError(f'--out {target}: expected a name that ends in ".npy" or ".jsonl"')
    texts = read_texts(file, text_column)
    vectors = api.load(run, runs=runs, step=step).embed(texts, dims=dims)
    if target.suffix == ".npy":
        np.save(target, vectors)
    else:
        lines = (json.dumps({"text": text, "embedding": row.tolist()}, ensure_ascii=False)
                 for text, row in zip(texts, vectors, strict=True))  # fmt: skip
        target.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
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
    from steepest.data.texts import read_texts

    trained = api.load(run, runs=runs, step=step)
    asked = list(_queries(queries))
    for query, hits in zip(asked, trained.search(asked, read_texts(corpus, text_column), k=k), strict=True):
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
