"""Start-up: ``steepest --help`` and opening a stored corpus, medians of several. Prints a table, writes JSON."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steepest.data import DataConfig, prepare_corpus
from steepest.tokenizer import TokenizerConfig

HERE = Path(__file__).parent


def median_seconds(work: object, repeats: int = 9) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()  # type: ignore[operator]
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    rows = {"steepest --help": median_seconds(
        lambda: subprocess.run([sys.executable, "-m", "steepest", "--help"], capture_output=True, check=True)
    )}  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        for source in ("python-docs", "python-stdlib"):
            corpus = [DataConfig(sources=[source]), TokenizerConfig(), Path(cache)]
            prepare_corpus(*corpus)
            rows[f"open {source} again"] = median_seconds(lambda corpus=corpus: prepare_corpus(*corpus))
    for name, seconds in rows.items():
        print(f"{name:<28}{1000 * seconds:>9.1f} ms")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "start_up.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
