"""Retrieval tasks: what the default recipe reaches on sets of pairs, beside the lexical baselines on the same rows.

    python benchmarks/retrieval_tasks.py DATA [--sets bitext_en_lv ...] [--seeds 3] [--time 10m | --steps 500]

DATA holds a folder a set: DATA/bitext_en_lv/train.tsv, test.tsv and, if there is one, dev.tsv, in one of the forms
that ``steepest train --objective contrastive`` reads. Every cell (set, seed, budget) is a command of its own, in a
fresh process; it is written to the JSON file as soon as it is done, and cells that are there are not run again.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tasks

# The metric of each set, what the best peer or baseline reached on its test rows, and the least and the aim here.
SETS: dict[str, tuple[str, float, float, float]] = {
    "bitext_en_lv": ("recall@1", 0.736, 0.98, 0.99),
    "ag_title_desc": ("recall@1", 0.516, 0.52, 0.65),
    "clinc150_unseen": ("map@r", math.nan, math.nan, math.nan),
    "sick": ("spearman", math.nan, math.nan, math.nan),
    "stsb": ("spearman", math.nan, math.nan, math.nan),
}


def run(folder: Path, metric: str, seed: int, budget: list[str], more: list[str]) -> dict[str, Any]:
    """One cell: train by command, read what it says of the test rows."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "steepest", "train", "--objective", "contrastive", "--data",
            str(folder / "train.tsv"), "--test", str(folder / "test.tsv"), "--metric", metric,
            "--seed", str(seed), "--name", "cell", "--runs", f"{place}/runs", "--cache", f"{place}/cache",
            *budget, *more,
        ]  # fmt: skip
        if (folder / "dev.tsv").exists():
            command += ["--dev", str(folder / "dev.tsv")]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        wall = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stderr or done.stdout)
        result = json.loads(Path(place, "runs/cell/result.json").read_text())
        plan = json.loads(Path(place, "runs/cell/plan.json").read_text())
    test = result["judged"]["test"]
    return {
        "metric": metric,
        "test": test["steepest"][metric],
        "interval": test["steepest"]["interval"],
        "dense": test["steepest"][f"dense_{metric}"],
        "baselines": {name: {"test": one[metric], "seconds": one["seconds"]} for name, one in test.items()
                      if name != "steepest"},
        "development": result["judged"]["development"]["steepest"][metric],
        "winner": result["winner"], "weights": result["weights"], "best_step": result["best_step"],
        "step": result["step"], "parameters": plan["parameters"], "wall": round(wall, 1),
    }  # fmt: skip


def table(cells: dict[str, Any]) -> str:
    """Means over the seeds of each set and budget, beside the best baseline and what was wanted."""
    lines = [
        f"{'set':<17}{'budget':<12}{'seeds':>5}  {'steepest':>8}  {'dense':>6}  {'baseline':>8}  least / aim"
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, _, budget = key.split(" ", 2)
        groups.setdefault((name, budget), []).append(cell)
    for (name, budget), found in sorted(groups.items()):
        own, dense = (statistics.mean(cell[which] for cell in found) for which in ("test", "dense"))
        baseline = statistics.mean(max(one["test"] for one in cell["baselines"].values()) for cell in found)
        _, _, least, aim = SETS.get(name, ("", math.nan, math.nan, math.nan))
        wanted = "" if least != least else f"{least:.3f} / {aim:.3f} " + (
            "aim" if own >= aim else "least" if own >= least else "missed"
        )  # fmt: skip
        lines.append(
            f"{name:<17}{budget:<12}{len(found):>5}  {own:>8.4f}  {dense:>6.4f}  {baseline:>8.4f}  {wanted}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    tasks.main(__doc__, SETS, run, table, "retrieval_tasks.json")
