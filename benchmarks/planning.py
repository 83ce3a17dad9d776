"""Promises against what is reached: whole commands, timed from outside, one cell at a time.

    python benchmarks/planning.py cells python-docs python-stdlib TEXT ... --budgets 5m 10m 20m
    python benchmarks/planning.py choice TEXT ... --budgets 10m
    python benchmarks/planning.py rivals TEXT ... --budgets 10m
    python benchmarks/planning.py table

cells     predicted, interval, reached; share of the ladder; on time or not
choice    the planned size against those around it, each trained for the time that the planned run trained
rivals    the plan against no plan, nanoGPT's published CPU recipe on bytes, and Hugging Face's Trainer

Every cell has an empty cache, so nothing is known before. Finished cells are kept in the JSON file and not run again,
so a table can be made in pieces. ``table`` only prints what there is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from steepest.config import parse_duration
from steepest.data import DataConfig, read_documents
from steepest.data.builtin import BUILTIN
from steepest.planning.ledger import quantile
from steepest.planning.rules import FAMILY

HERE = Path(__file__).parent
PYTHON = [sys.executable, "-m", "steepest"]


class Kept:
    """Finished rows of a JSON file, by their keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}

    def find(self, kind: str, **key: Any) -> dict[str, Any] | None:
        return next(
            (row for row in self.rows.get(kind, []) if all(row.get(k) == v for k, v in key.items())), None
        )

    def add(self, kind: str, row: dict[str, Any]) -> None:
        self.rows.setdefault(kind, []).append(row)
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")


def timed(arguments: list[str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - began, done.stdout


def train(corpus: str, seconds: float, folder: str, *more: str) -> tuple[float, Path]:
    """One run of the command; its wall clock and its folder."""
    name = f"run-{len(list(Path(folder).glob('runs/*')))}"
    wall, _ = timed([*PYTHON, "train", corpus, "--time", f"{seconds:g}s", "--runs", f"{folder}/runs", "--cache",
                     f"{folder}/cache", "--name", name, *more])  # fmt: skip
    return wall, Path(folder) / "runs" / name


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def cell(corpus: str, seconds: float, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        wall, run = train(corpus, seconds, folder, "--seed", str(seed))
        plan, score, result = read(run / "plan.json"), read(run / "score.json"), read(run / "result.json")
    ladder, told = plan.get("ladder", {}), plan.get("prediction")
    row = {
        "wall": round(wall, 2), "share": round(wall / seconds, 4), "shape": f"{plan['config']['model']['depth']} x "
        f"{plan['config']['model']['width']}", "parameters": plan["matrix_parameters"], "epochs": plan["epochs"],
        "tokens_planned": plan["tokens"], "tokens": result["tokens"], "reached": result["held_out"]["bits_per_byte"],
        "ladder_share": round(ladder.get("seconds", 0.0) / seconds, 4), "lr_multiplier": ladder.get("lr_multiplier"),
        "slowness": ladder.get("slowness"), "points": ladder.get("points", []), "law": plan.get("law"),
        "unpredictable": plan.get("unpredictable"), "forecasts": score.get("forecasts", []),
        "best_step": result["best_step"] / result["step"],
    }  # fmt: skip
    if told:
        row |= {key: told[key] for key in ("value", "low", "high", "low95", "high95", "extrapolation")}
        row |= {key: score[key] for key in ("error", "inside80", "inside95", "predicted_for_these_tokens")}
    return row


def cells(kept: Kept, corpora: list[str], budgets: list[str], seed: int) -> None:
    for budget in budgets:
        for corpus in corpora:
            key = {"corpus": Path(corpus).name, "budget": budget, "seed": seed}
            if kept.find("cells", **key) is None:
                kept.add("cells", {**key, **cell(corpus, parse_duration(budget), seed)})
                table_of_cells(kept)


def choice(kept: Kept, corpora: list[str], budgets: list[str], seed: int) -> None:
    """The planned size, and the two below and above it, all from speed to end in the time the planned one had."""
    for budget in budgets:
        for corpus in corpora:
            key = {"corpus": Path(corpus).name, "budget": budget, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                planned = kept.find("planned", **key)
                if planned is None:
                    _, run = train(corpus, parse_duration(budget), folder, "--seed", str(seed))
                    plan = read(run / "plan.json")
                    model = plan["config"]["model"]
                    planned = {**key, "shape": [model["depth"], model["width"]],
                               "ladder": plan.get("ladder", {}).get("seconds", 0.0),
                               "lr_multiplier": plan.get("ladder", {}).get("lr_multiplier", 1.0)}  # fmt: skip
                    kept.add("planned", planned)
                at = FAMILY.index((planned["shape"][0], planned["shape"][1]))
                for depth, width in FAMILY[max(0, at - 2) : at + 3]:
                    if kept.find("choice", depth=depth, width=width, **key):
                        continue
                    seconds = parse_duration(budget) - planned["ladder"]
                    _, run = train(corpus, seconds, folder, "--no-plan", "--depth", str(depth), "--width", str(width),
                                   "--seed", str(seed))  # fmt: skip
                    result = read(run / "result.json")
                    kept.add("choice", {**key, "depth": depth, "width": width, "tokens": result["tokens"],
                                        "planned": [depth, width] == planned["shape"],
                                        "reached": result["held_out"]["bits_per_byte"]})  # fmt: skip
                    table_of_choice(kept)


RIVALS = ("steepest", "steepest --no-plan", "nanoGPT's recipe, bytes", "Trainer, GPT-2")


def rivals(kept: Kept, corpora: list[str], budgets: list[str], seed: int) -> None:
    for budget in budgets:
        for corpus in corpora:
            key = {"corpus": Path(corpus).name, "budget": budget, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                text = as_file(corpus, Path(folder))
                for who in RIVALS:
                    if kept.find("rivals", who=who, **key) is None:
                        kept.add(
                            "rivals",
                            {**key, "who": who, **compete(who, text, parse_duration(budget), seed, folder)},
                        )
                        table_of_rivals(kept)


def compete(who: str, text: Path, seconds: float, seed: int, folder: str) -> dict[str, Any]:
    """Wall clock and bits per byte of the last tenth of a text, whole process against whole process."""
    if who.startswith("steepest"):
        more = [] if who == "steepest" else ["--no-plan"]
        wall, run = train(str(text), seconds, folder, "--set", "data.validation=0.1", "--set", "data.split=position",
                          "--set", "train.evaluations=50", "--seed", str(seed), *more)  # fmt: skip
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        curve = [
            (line["seconds"], line["evaluation"]["bits_per_byte"]) for line in lines if "evaluation" in line
        ]
        reached = read(run / "result.json")["held_out"]["bits_per_byte"]
        return {"wall": wall, "bits_per_byte": reached, "curve": curve}
    most = ["--seconds", f"{0.97 * seconds:g}", "--seed", str(seed)]
    script = ["trainer_rival.py"] if who.startswith("Trainer") else ["reference.py", "--tokens", "bytes"]
    wall, output = timed([sys.executable, str(HERE / script[0]), str(text), *script[1:], *most])
    return {"wall": wall, **json.loads(output.splitlines()[-1])}


def as_file(corpus: str, folder: Path) -> Path:
    """A corpus as one text file, for programs that read nothing else."""
    if corpus not in BUILTIN:
        return Path(corpus)
    path = folder / f"{corpus}.txt"
    path.write_text("\n".join(read_documents(DataConfig(sources=[corpus]))))
    return path


def table_of_cells(kept: Kept) -> None:
    rows = kept.rows.get("cells", [])
    print(f"\n{'corpus':<16}{'budget':>7}{'shape':>9}{'epochs':>7}{'ladder':>8}{'predicted':>11}{'80% interval':>18}"
          f"{'reached':>9}{'error':>8}{'inside':>8}{'on time':>9}")  # fmt: skip
    for row in rows:
        told = f"{'not predictable':>29}{row['reached']:>9.3f}{'':>16}"
        if "value" in row:
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            told = (f"{row['value']:>11.3f}{interval:>18}{row['reached']:>9.3f}{row['error']:>+8.1%}"
                    f"{'yes' if row['inside80'] else 'no':>8}")  # fmt: skip
        print(f"{row['corpus']:<16}{row['budget']:>7}{row['shape']:>9}{row['epochs']:>7.1f}{row['ladder_share']:>8.1%}{told}"
              f"{row['share']:>9.1%}")  # fmt: skip
    promised = [row for row in rows if "value" in row]
    if promised:
        errors = sorted(abs(row["error"]) for row in promised)
        print(
            f"{len(promised)} of {len(rows)} promised: error {statistics.median(errors):.1%} in the median, "
            f"{quantile(errors, 0.9):.1%} at the 90th percentile; {sum(row['inside80'] for row in promised)} inside the 80% "
            f"interval, {sum(row['inside95'] for row in promised)} inside the 95% one"
        )


def table_of_choice(kept: Kept) -> None:
    rows = kept.rows.get("choice", [])
    print(f"\n{'corpus':<16}{'budget':>7}{'shape':>9}{'tokens':>12}{'reached':>9}{'over the best':>15}")
    for row in rows:
        best = min(
            one["reached"] for one in rows if (one["corpus"], one["budget"]) == (row["corpus"], row["budget"])
        )
        mark = "   planned" if row["planned"] else ""
        shape = f"{row['depth']} x {row['width']}"
        print(f"{row['corpus']:<16}{row['budget']:>7}{shape:>9}{row['tokens']:>12,}{row['reached']:>9.4f}"
              f"{row['reached'] / best - 1:>15.2%}{mark}")  # fmt: skip


def table_of_rivals(kept: Kept) -> None:
    rows = kept.rows.get("rivals", [])
    print(
        f"\n{'corpus':<18}{'budget':>7}  {'who':<26}{'wall s':>8}{'bits/byte':>11}{'passed by steepest at':>24}"
    )
    for row in rows:
        key = {name: row[name] for name in ("corpus", "budget", "seed")}
        mine = kept.find("rivals", who="steepest", **key)
        passed = next((at for at, loss in (mine or {}).get("curve", []) if loss < row["bits_per_byte"]), None)
        when = "" if row["who"] == "steepest" else f"{passed:.0f} s" if passed else "not passed"
        print(
            f"{row['corpus']:<18}{row['budget']:>7}  {row['who']:<26}{row['wall']:>8.1f}{row['bits_per_byte']:>11.4f}{when:>24}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cells", "choice", "rivals", "table"))
    parser.add_argument("corpora", nargs="*", default=["python-docs"])
    parser.add_argument("--budgets", nargs="+", default=["5m"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "planning.json")
    asked = parser.parse_args()
    kept = Kept(asked.out)
    makers = {"cells": cells, "choice": choice, "rivals": rivals}
    if asked.what in makers:
        makers[asked.what](kept, asked.corpora, asked.budgets, asked.seed)
    for show in (table_of_cells, table_of_choice, table_of_rivals):
        show(kept)


if __name__ == "__main__":
    main()
