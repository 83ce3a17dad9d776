"""How fast text becomes ids: steepest beside the ``tokenizers`` library, and end to end into the token store.

    python benchmarks/tokenizing.py [TEXT] [--vocab-size N] [--out FILE]

Without TEXT the source of the standard library is encoded. Prints a table and writes its figures as JSON. Both
sides encode the same pieces of 1 MiB in one process with the same tokenizer, and must give the same ids. "first"
has met no word before, "again" has met all of them. End to end is ``prepare_corpus`` into an empty cache: reading,
splitting, encoding in worker processes, writing; with the tokenizer given, and with one trained.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from steepest.data import DataConfig, prepare_corpus, read_documents
from steepest.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer

PIECE = 1 << 20
PEER_BYTES = 16 * PIECE  # the library's speed does not depend on how much it has met


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_one_process(tokenizer: Tokenizer, pieces: list[str], repeats: int) -> dict[str, float]:
    """MB/s of each way to encode ``pieces``, median of ``repeats``."""
    few = pieces[: PEER_BYTES // PIECE]
    sizes = {id(texts): sum(len(text.encode()) for text in texts) for texts in (pieces, few)}
    stock = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    stock.encode_special_tokens = True
    assert [e.ids for e in stock.encode_batch_fast(few)] == [
        ids.tolist() for ids in tokenizer.encode_batch(few)
    ]
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        fresh = Tokenizer.from_json(tokenizer.to_json())
        ways: list[tuple[str, str, list[str], Callable[[list[str]], Any]]] = [
            ("steepest, first", "false", pieces, fresh.encode_batch),
            ("steepest, again", "false", pieces, fresh.encode_batch),
            ("tokenizers encode_batch, one thread", "false", few, stock.encode_batch),
            ("tokenizers encode_batch_fast, one thread", "false", few, stock.encode_batch_fast),
            ("tokenizers encode_batch_fast, all cores", "true", few, stock.encode_batch_fast),
        ]
        for name, parallel, texts, encode in ways:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
            elapsed = seconds(lambda encode=encode, texts=texts: encode(texts))  # type: ignore[misc]
            rates.setdefault(name, []).append(sizes[id(texts)] / elapsed / 1e6)
    return {name: statistics.median(each) for name, each in rates.items()}


def end_to_end(source: str, kind: TokenizerConfig, workers: int) -> dict[str, Any]:
    """Seconds of each stage of ``prepare_corpus`` into an empty cache, MB/s in all, and opening it again."""
    began_at: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        began_at.setdefault(stage, time.perf_counter())

    data = DataConfig(sources=[source])
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        corpus = prepare_corpus(data, kind, Path(cache), progress=progress, workers=workers)
        ended = time.perf_counter()
        opening = seconds(lambda: prepare_corpus(data, kind, Path(cache), workers=workers))
        edges = [*began_at.values(), ended]
        return {
            "workers": workers,
            "seconds": ended - began,
            "stages_s": {stage: edges[n + 1] - edges[n] for n, stage in enumerate(began_at)},
            "MB_per_s": corpus.summary.n_bytes / (ended - began) / 1e6,
            "tokens": corpus.n_tokens,
            "bytes_per_token": corpus.bytes_per_token,
            "opening_again_ms": opening * 1e3,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="?", default="python-stdlib", help="a text file (the standard library)")
    parser.add_argument("--vocab-size", type=int, default=None)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tokenizing.json"))
    arguments = parser.parse_args()

    text = "\n".join(read_documents(DataConfig(sources=[arguments.text])))
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    n_bytes = len(text.encode())
    config = TokenizerConfig(kind="bpe", vocab_size=arguments.vocab_size or "auto")
    made: list[Tokenizer] = []
    training = seconds(lambda: made.append(make_tokenizer(config, lambda: [text], n_bytes)))
    print(
        f"{n_bytes / 1e6:.1f} MB, vocabulary {made[0].vocab_size:,}, trained in {training:.1f} s", flush=True
    )
    rates = in_one_process(made[0], pieces, arguments.repeats)
    for name, rate in rates.items():
        print(f"{name:<45}{rate:8.2f} MB/s", flush=True)

    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made[0].save(Path(folder) / "tokenizer.json")
        given = TokenizerConfig(kind=str(Path(folder) / "tokenizer.json"))
        for name, kind, workers in (
            ("tokenizer given, 1 worker", given, 1),
            (f"tokenizer given, {arguments.workers} workers", given, arguments.workers),
            (f"tokenizer trained, {arguments.workers} workers", config, arguments.workers),
        ):
            rows[name] = row = end_to_end(arguments.text, kind, workers)
            stages = ", ".join(f"{stage} {took:.1f} s" for stage, took in row["stages_s"].items())
            print(f"end to end, {name:<33}{row['MB_per_s']:8.2f} MB/s  ({stages})", flush=True)
    print(f"opening the stored corpus again: {row['opening_again_ms']:.1f} ms")

    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "tokenizers": tokenizers.__version__,
        "text": Path(arguments.text).name,
        "bytes": n_bytes,
        "vocab_size": made[0].vocab_size,
        "training_s": training,
        "one_process_MB_per_s": rates,
        "end_to_end": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
