"""Tasks: what the default recipe reaches on labelled sets, beside the baselines fitted on the same rows.

    python benchmarks/tasks.py DATA [--sets trec clinc150] [--seeds 3] [--time 10m | --steps 500] [--out FILE]

DATA holds a folder a set: DATA/trec/train.tsv, test.tsv and, if there is one, dev.tsv or val.tsv, rows of
label<TAB>text. Every cell (set, seed, budget) is a command of its own, in a fresh process with an empty cache; it is
written to the JSON file as soon as it is done, and cells that are there already are not run again. Prints a table.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# The metric of each set, what the best peer reached on its test rows, and the least and the aim wanted here.
SETS: dict[str, tuple[str, float, float, float]] = {
    "ag_news": ("accuracy", 0.900, 0.900, 0.915),
    "trec": ("accuracy", 0.892, 0.892, 0.92),
    "clinc150": ("accuracy", 0.919, 0.919, 0.94),
    "dna_splice": ("accuracy", 0.950, 0.955, 0.97),
    "sst2": ("accuracy", 0.812, 0.812, 0.827),
    "names18": ("accuracy", 0.811, 0.811, 0.83),
    "smiles_hiv": ("roc_auc", 0.796, 0.796, 0.82),
}


def run(folder: Path, metric: str, seed: int, budget: list[str], more: list[str]) -> dict[str, Any]:
    """One cell: train by command, read what it says of the test rows."""
    dev = next((folder / name for name in ("dev.tsv", "val.tsv") if (folder / name).exists()), None)
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "steepest", "train", "--objective", "classification", "--data",
            str(folder / "train.tsv"), "--test", str(folder / "test.tsv"), "--metric", metric, "--seed", str(seed),
            "--name", "cell", "--runs", f"{place}/runs", "--cache", f"{place}/cache", *budget, *more,
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(
            command + ([] if dev is None else ["--dev", str(dev)]), capture_output=True, text=True
        )
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
        "calibration_error": test["steepest"]["calibration_error"],
        "baselines": {name: {"test": one[metric], "seconds": one["seconds"]} for name, one in test.items()
                      if name != "steepest"},
        "development": result["judged"]["development"]["steepest"][metric],
        "blend": result["blend"], "winner": result["winner"], "best_step": result["best_step"],
        "step": result["step"], "lexical_seconds": result["lexical"]["seconds"], "parameters": plan["parameters"],
        "wall": round(wall, 1),
    }  # fmt: skip


def table(cells: dict[str, Any]) -> str:
    """Means over the seeds of each set and budget, beside baselines and peers."""
    lines = [
        f"{'set':<12}{'budget':<12}{'seeds':>5}  {'steepest':>8}  {'best baseline':>13}  {'peer':>6}  wanted"
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, _, budget = key.split(" ", 2)
        groups.setdefault((name, budget), []).append(cell)
    for (name, budget), found in sorted(groups.items()):
        own = statistics.mean(cell["test"] for cell in found)
        baseline = statistics.mean(max(one["test"] for one in cell["baselines"].values()) for cell in found)
        _, peer, least, aim = SETS.get(name, ("", float("nan"), float("nan"), float("nan")))
        verdict = "aim" if own >= aim else "least" if own >= least else "missed"
        lines.append(
            f"{name:<12}{budget:<12}{len(found):>5}  {own:>8.4f}  {baseline:>13.4f}  {peer:>6.3f}  "
            f"{least:.3f} / {aim:.3f} {verdict}"
        )
    return "\n".join(lines)


def main(
    description: str = __doc__, sets: Mapping[str, tuple[Any, ...]] = SETS, run: Callable[..., Any] = run,
    table: Callable[[dict[str, Any]], str] = table, results: str = "tasks.json",
) -> None:  # fmt: skip
    """Run the cells that are missing, keep each as it is done, print the table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(sets))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", default=None)
    parser.add_argument("--steps", default=None)
    parser.add_argument(
        "--set", action="append", default=[], help="any setting, such as objective.lexical=false"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / results)
    asked = parser.parse_args()
    budget = ["--steps", asked.steps] if asked.steps else ["--time", asked.time or "10m"]
    more = [word for change in asked.set for word in ("--set", change)]
    cells: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for seed in range(asked.seeds):
        for name in asked.sets:
            key = " ".join(
                [name, str(seed), budget[1] + ("" if budget[0] == "--time" else " steps"), *asked.set]
            )
            if key not in cells:
                metric = sets.get(name, ("macro_f1",))[0]
                cells[key] = run(asked.data / name, metric, seed, budget, more)
                asked.out.write_text(json.dumps(cells, indent=1) + "\n")
                print(f"{key}: {cells[key]['test']:.4f} in {cells[key]['wall']:.0f} s", flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
