"""On time: whole commands against their --time, on a quiet machine and beside a process that comes and goes.

    python benchmarks/on_time.py [--times 30s 90s]

Each run is a fresh process with an empty cache, timed from outside. Prints a table and writes JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from steepest.config import parse_duration

HERE = Path(__file__).parent


def disturb(stop: threading.Event) -> None:
    """A competitor on every core: ten seconds on, ten seconds off."""
    spin = "import time\nend = time.time() + 10\nwhile time.time() < end: pass"
    while not stop.is_set():
        for process in [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]:
            process.wait()
        stop.wait(10)


def run(asked: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "steepest", "train", "--time", asked, "--runs", f"{folder}/runs",
             "--cache", f"{folder}/cache", "--name", "a"], capture_output=True, text=True,
        )  # fmt: skip
        wall = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads((Path(folder) / "runs/a/result.json").read_text())
        lines = (Path(folder) / "runs/a/metrics.jsonl").read_text().splitlines()
        last = [record for record in map(json.loads, lines) if "lr" in record][-1]
        peak = max(record["lr"] for record in map(json.loads, lines) if "lr" in record)
    return {
        "asked": parse_duration(asked), "wall": round(wall, 2), "share": round(wall / parse_duration(asked), 4),
        "steps": result["step"], "last_rate_over_peak": round(last["lr"] / peak, 4),
        "bits_per_byte": result["held_out"]["bits_per_byte"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", nargs="+", default=["30s", "60s", "120s"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "on_time.json")
    asked = parser.parse_args()
    rows = [{"machine": "quiet", **run(seconds)} for seconds in asked.times]
    stop = threading.Event()
    competitor = threading.Thread(target=disturb, args=(stop,), daemon=True)
    competitor.start()
    rows += [{"machine": "disturbed", **run(seconds)} for seconds in asked.times]
    stop.set()
    print(
        f"{'machine':<11}{'asked s':>9}{'wall s':>9}{'share':>8}{'steps':>7}{'last rate':>11}{'bits/byte':>11}"
    )
    for row in rows:
        print(f"{row['machine']:<11}{row['asked']:>9.0f}{row['wall']:>9.1f}{row['share']:>8.3f}{row['steps']:>7}"
              f"{row['last_rate_over_peak']:>11.4f}{row['bits_per_byte']:>11.4f}")  # fmt: skip
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
