"""What a report costs: seconds of the whole command, bytes of the page, and what a browser says to it.

    python benchmarks/report.py RUN [RUN ...] [--chromium chromium-headless-shell]

Each run's page is made by ``steepest report`` in a process of its own; then one of a run whose metric lines are
repeated until there are a million. With a headless Chromium the pages are opened at 1280 and 390 pixels, and console
messages are counted. Writes ``benchmarks/results/report.json``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "report.json"
LINES = 1_000_000


def measure(run: Path, browser: str | None) -> dict[str, float | int | str]:
    """One page: seconds, bytes, console messages at both sizes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "steepest", "report", str(run)], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    page = run / "report.html"
    found: dict[str, float | int | str] = {
        "run": run.name, "metric_lines": sum(1 for _ in (run / "metrics.jsonl").open("rb")),
        "seconds": round(seconds, 2), "bytes": page.stat().st_size,
    }  # fmt: skip
    for size in ("1280,900", "390,844") if browser else ():
        done = subprocess.run(
            [browser or "", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={size}",
             "--dump-dom", page.absolute().as_uri()], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        found[f"console_messages_{size.split(',')[0]}"] = done.stderr.count("CONSOLE")
    return found


def lengthened(run: Path, place: Path) -> Path:
    """A run with its steps repeated, numbered on, until there are a million lines."""
    longer = place / f"{run.name}-long"
    shutil.copytree(run, longer, ignore=shutil.ignore_patterns("checkpoints"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    with (longer / "metrics.jsonl").open("w") as file:
        for i in range(LINES):
            line, times = lines[i % len(lines)], i // len(lines)
            moved = {
                key: line[key] + times * last[key] for key in ("step", "tokens", "seconds") if key in line
            }
            file.write(json.dumps({**line, **moved}) + "\n")
    return longer


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium-headless-shell"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = [measure(run, arguments.chromium) for run in arguments.runs]
        found.append(measure(lengthened(arguments.runs[0], Path(place)), arguments.chromium))
    for row in found:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
