"""Loss for the minutes: nanoGPT's published CPU recipe, and steepest given the same wall clock.

    python benchmarks/loss_for_minutes.py TEXT --tokens characters|bytes [--seeds 3]

TEXT is a file, or python-docs: its topics in order of their names, as one file.

Both sides are whole processes, timed from outside: start of Python, imports, reading, training and the loss over
the whole held-out text (the last 10%). steepest runs as its command, default settings, ``--time`` set to the
rival's whole wall clock; its cache is empty, so tokenizing counts. The loss of the rival is passed at the first
checkpoint of the run whose loss over the whole held-out text is below it; and, because a run's schedule belongs
to its budget, also by a run of its own with a quarter of the time. Prints a table and writes JSON.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from steepest.data.builtin import python_docs

HERE = Path(__file__).parent


def timed(arguments: list[str], **environment: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began, done.stdout


def rival(text: Path, tokens: str) -> dict[str, Any]:
    wall, output = timed([sys.executable, str(HERE / "reference.py"), str(text), "--tokens", tokens])
    return {"wall": wall, **json.loads(output.splitlines()[-1])}


def ours(text: Path, tokens: str, seconds: float, seed: int, folder: Path, every: float) -> dict[str, Any]:
    runs, cache = folder / "runs", folder / f"cache-{seed}-{seconds:.0f}"
    name = f"seed-{seed}-{seconds:.0f}"
    tokenizer = ["--tokenizer", "chars"] if tokens == "characters" else []
    wall, _ = timed(
        [sys.executable, "-m", "steepest", "train", str(text), "--time", f"{seconds:.2f}s", *tokenizer, "--name", name,
         "--seed", str(seed), "--runs", str(runs), "--cache", str(cache), "--set", "data.validation=0.1",
         "--set", "data.split=position", "--set", f"train.checkpoint_seconds={every}", "--keep", "200"]
    )  # fmt: skip
    run = runs / name
    metrics = evaluate(run, cache)
    passed = []
    for path in sorted((run / "checkpoints").glob("step-*")):
        state = json.loads((path / "state.json").read_text())
        passed.append({"step": state["step"], "seconds": state["seconds"]})
    return {**metrics, "wall": wall, "run": run, "cache": cache, "checkpoints": passed}


def evaluate(run: Path, cache: Path, step: int | None = None) -> dict[str, float]:
    at = [] if step is None else ["--step", str(step)]
    _, output = timed(
        [sys.executable, "-m", "steepest", "evaluate", str(run), "--json", "--cache", str(cache), *at]
    )
    found: dict[str, float] = json.loads(output)
    return found


def first_below(run: dict[str, Any], bits_per_byte: float) -> float:
    """Seconds at the first checkpoint that beats a loss over the whole held-out text; infinite if none does.

    Found by bisection, then walked back while the checkpoint before beats it too: the loss need not fall evenly.
    """
    points = run["checkpoints"]

    def beats(index: int) -> bool:
        step = points[index]["step"]
        return evaluate(run["run"], run["cache"], step)["bits_per_byte"] <= bits_per_byte

    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if beats(middle) else (middle + 1, high)
    while 0 < low < len(points) and beats(low - 1):
        low -= 1
    return float(points[low]["seconds"]) if low < len(points) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", choices=("characters", "bytes"), default="characters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out or HERE / "results" / f"loss_for_minutes-{asked.text.stem}.json"
    folder = Path(tempfile.mkdtemp())
    if str(asked.text) == "python-docs":
        asked.text = folder / "python-docs.txt"
        asked.text.write_bytes(b"\n".join(topic for (topic,) in python_docs()))
    try:
        reference = rival(asked.text, asked.tokens)
        seconds, target = reference["wall"], reference["bits_per_byte"]
        quarter = ours(asked.text, asked.tokens, seconds / 4, 0, folder, 1e9)
        whole = [
            ours(asked.text, asked.tokens, seconds, seed, folder, seconds / 50) for seed in range(asked.seeds)
        ]
        firsts = [first_below(run, target) for run in whole]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    per_token = reference["nats"] / target  # nats per token of the rival for each bit per byte, the same text
    losses = [run["bits_per_byte"] for run in whole]
    result = {
        "text": asked.text.name,
        "tokens": asked.tokens,
        "reference": reference,
        "steepest": {
            "bits_per_byte": losses,
            "nats_per_symbol": [loss * per_token for loss in losses],
            "wall": [run["wall"] for run in whole],
            "first_passes_reference_at": firsts,
            "share_of_reference_time": [first / seconds for first in firsts],
            "quarter_of_the_time": {"bits_per_byte": quarter["bits_per_byte"], "wall": quarter["wall"]},
        },
    }
    print(f"{asked.text.name}, {asked.tokens}; {reference['threads']} threads")
    print(f"{'':<28}{'wall s':>9}{'bits/byte':>11}{'nats/symbol':>13}")
    print(f"{'reference recipe':<28}{seconds:>9.1f}{target:>11.4f}{reference['nats']:>13.4f}")
    for seed, run in enumerate(whole):
        print(
            f"{f'steepest, seed {seed}':<28}{run['wall']:>9.1f}{losses[seed]:>11.4f}{losses[seed] * per_token:>13.4f}"
        )
    mean = statistics.fmean(losses)
    print(f"{'steepest, mean':<28}{'':>9}{mean:>11.4f}{mean * per_token:>13.4f}")
    reached = quarter["bits_per_byte"]
    print(f"{'steepest, a quarter':<28}{quarter['wall']:>9.1f}{reached:>11.4f}{reached * per_token:>13.4f}")
    print(
        f"the reference's loss is first passed at {', '.join(f'{first:.1f}' for first in firsts)} s of the whole run: "
        f"{statistics.median(firsts) / seconds:.2f} of its time in the median"
    )
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
