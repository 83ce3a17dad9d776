"""Scaling laws against published fits, and against runs that are already known.

    python benchmarks/scaling_fits.py DATA_FOLDER

DATA_FOLDER holds tables of published runs as CSV: chinchilla_epoch (Besiroglu et al.), gadre_testbed, datablations_fitset
and datablations_runs (Muennighoff et al.), steplaw_dense, olmo_ladder_final, mpl_curves (Luo et al.); a missing one is
passed over, and any other CSV with columns of parameters, tokens and loss joins the back-test under its own name.

The back-test pretends that the most expensive runs of each table are not known yet. For each, a ladder is designed as a
planner would: up to six rungs within a factor of 3 of the target's tokens a parameter, each 2.5 times cheaper than the
one above, the top one at most 1/15 of the target's compute. The law fitted to the ladder predicts the target. Up to
eight ladders a target: the nearest ratios, and random choices, each ladder once. Prints tables and writes JSON.
"""

import argparse
import csv
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steepest.errors import DataError
from steepest.scaling import (
    ChinchillaLaw,
    Points,
    fit_bayes,
    fit_by_projection,
    fit_curve,
    fit_huber,
    muennighoff,
    read_table,
)

HERE = Path(__file__).parent
C4 = "loss___training_eval_data_val_tok_mult_paloma_c4_en_00000001_tar_"
C4_HELD_OUT = "loss___training_eval_data_c4_val_shard_0000000_0000010_tar_"
RUNGS, STEP, TARGETS, REPEATS = 6, 2.5, 14, 8


def read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def chinchilla(folder: Path) -> Points:
    rows = sorted(read(folder, "chinchilla_epoch.csv"), key=lambda row: float(row["loss"]))[:-5]
    return Points.of(column(rows, "N"), column(rows, "D"), column(rows, "loss"))


# -- published fits ---------------------------------------------------------------------------------------------


def besiroglu(folder: Path) -> dict[str, Any]:
    points = chinchilla(folder)
    began = time.perf_counter()
    law = fit_huber(points)
    seconds = time.perf_counter() - began
    return {"E": round(law.floor, 5), "alpha": round(law.alpha, 5), "beta": round(law.beta, 5),
            "published": {"E": 1.8172, "alpha": 0.3473, "beta": 0.3672}, "seconds": round(seconds, 3)}  # fmt: skip


def gadre(folder: Path) -> dict[str, Any]:
    """Five small runs predict 1.4B at 640 tokens a parameter and 6.9B at 20 (RedPajama; loss on C4)."""
    rows = [row for row in read(folder, "gadre_testbed.csv") if row["dataset"] == "rpj"]

    def at(millions: float, multiplier: float) -> dict[str, str]:
        return next(row for row in rows if abs(np.log(float(row["N"]) / millions / 1e6)) < 0.1
                    and float(row["mult"]) == multiplier)  # fmt: skip

    five = [at(10.57, 1), at(10.57, 16), at(78.9, 1), at(153.7, 1), at(411.6, 1)]
    points = Points.of(column(five, "N"), column(five, "D"), column(five, C4_HELD_OUT))
    law = fit_by_projection(points, tied=True, absolute=True)
    errors = [
        abs(float(law(float(row["N"]), float(row["D"]))) / float(row[C4_HELD_OUT]) - 1) * 100
        for row in (at(1439.8, 32), at(6889.4, 1))
    ]
    return {"1.4B, ratio 640, %": round(errors[0], 4), "6.9B, ratio 20, %": round(errors[1], 4),
            "published": [0.7103, 0.7320]}  # fmt: skip


def repeated_tokens(folder: Path) -> dict[str, Any]:
    rows = read(folder, "datablations_fitset.csv")
    law = ChinchillaLaw.published(
        np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596
    )
    told = muennighoff(
        law, column(rows, "N"), column(rows, "D"), column(rows, "U"), repeats=15.387756, excess=5.309743
    )
    error = np.abs(np.log(told / column(rows, "loss")))
    value = np.where(error <= 1e-3, error**2 / 2, 1e-3 * (error - 5e-4)).sum()
    return {"objective": round(float(value), 6), "published": 0.015826, "runs": len(rows)}


# -- curves -----------------------------------------------------------------------------------------------------


def curves(folder: Path) -> list[dict[str, Any]]:
    """The curve law on 27 curves: fitted to three schedules it predicts six others; fitted to a part, the end."""
    by_run: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    for row in read(folder, "mpl_curves.csv"):
        line = {"step": int(row["step"]), "lr": float(row["lr"]), "loss": float(row["loss"])}
        by_run[int(row["size_M"]), row["schedule"]].append(line)
    rows = []
    for size in sorted({size for size, _ in by_run}):
        runs = {name: _with_warmup(lines) for (one, name), lines in by_run.items() if one == size}
        fitted = ("cosine_24000", "constant_24000", "wsdcon_9")
        law = fit_curve(*(runs[name] for name in fitted), memory=1000.0)
        errors, ends = [], []
        for name, lines in runs.items():
            if name in fitted:
                continue
            rates = np.interp(
                np.arange(1, lines[-1]["step"] + 1),
                [one["step"] for one in lines],
                [one["lr"] for one in lines],
            )
            told = law(rates)[[int(one["step"]) - 1 for one in lines[1:]]]
            loss = np.array([one["loss"] for one in lines[1:]])
            errors.append(np.abs(told / loss - 1).mean() * 100)
            last = max(3, len(loss) // 50)
            ends.append(abs(told[-last:].mean() / loss[-last:].mean() - 1) * 100)
        row: dict[str, Any] = {"size": f"{size}M", "other schedules, mean %": round(float(np.mean(errors)), 3),
                               "their ends, mean %": round(float(np.mean(ends)), 3),
                               "worst end, %": round(float(np.max(ends)), 3)}  # fmt: skip
        long = {name: lines for name, lines in runs.items() if len(lines) > 100}
        for share in (0.25, 0.5, 0.75):
            misses, inside = [], 0
            for name, lines in long.items():
                rates = np.interp(
                    np.arange(1, lines[-1]["step"] + 1),
                    [one["step"] for one in lines],
                    [one["lr"] for one in lines],
                )
                seen = [one for one in lines if one["step"] <= share * lines[-1]["step"]]
                told = fit_curve(seen, like=law if name not in fitted else None).extrapolate(rates)
                end = float(np.mean([one["loss"] for one in lines[-5:]]))
                misses.append(abs(told.median / end - 1) * 100)
                inside += end in told
            row[f"end from {share:.0%}, median %"] = round(float(np.median(misses)), 3)
            row[f"inside, from {share:.0%}"] = f"{inside} of {len(long)}"
        rows.append(row)
    return rows


def _with_warmup(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """These logs begin at the end of a linear warm-up of 2,160 steps; a line without a loss says where it began."""
    lines = sorted(lines, key=lambda one: one["step"])
    first = {"step": 1, "lr": lines[0]["lr"] / 2160, "loss": float("nan")}
    return [first, *lines]


# -- the back-test ----------------------------------------------------------------------------------------------


def sets(folder: Path) -> Iterator[tuple[str, Points]]:
    """Every table of finished runs, one loss each."""
    known = {
        "mpl_curves",
        "olmo_ladder_curves",
        "datablations_fitset",
        "gadre_grid",
        "fullfits",
        "nanochat_optima_jan26",
    }
    readers: dict[str, Callable[[], Iterator[tuple[str, Points]]]] = {
        "chinchilla_epoch": lambda: iter([("chinchilla", chinchilla(folder))]),
        "gadre_testbed": lambda: _gadre_sets(folder),
        "datablations_runs": lambda: _mean_sets(folder, "datablations_runs.csv", "loss"),
        "steplaw_dense": lambda: _least_sets(folder, "steplaw_dense.csv", "smooth loss"),
        "olmo_ladder_final": lambda: _plain_set(folder, "olmo_ladder_final.csv", "c4_loss"),
    }
    paths = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    for name, reader in readers.items():
        if name in paths:
            yield from reader()
    for name, path in paths.items():
        if name not in readers and name not in known:
            try:
                yield name, read_table(path).points
            except DataError as error:
                print(f"passed over: {error}")


def _gadre_sets(folder: Path) -> Iterator[tuple[str, Points]]:
    rows = [row for row in read(folder, "gadre_testbed.csv") if row[C4]]
    for name in ("c4_original", "rpj", "rw_original"):
        some = [row for row in rows if row["dataset"] == name]
        yield f"gadre {name}", Points.of(column(some, "N"), column(some, "D"), column(some, C4))


def _mean_sets(folder: Path, name: str, loss: str) -> Iterator[tuple[str, Points]]:
    seeds = defaultdict(list)
    for row in read(folder, name):
        if float(row["epochs"]) <= 1.001:
            seeds[float(row["N"]), float(row["D"])].append(float(row[loss]))
    n, d = np.array(sorted(seeds)).T
    yield "datablations", Points.of(n, d, [np.mean(seeds[key]) for key in sorted(seeds)])


def _least_sets(folder: Path, name: str, loss: str) -> Iterator[tuple[str, Points]]:
    best: dict[tuple[float, float], float] = {}
    for row in read(folder, name):
        key = float(row["N"]), float(row["D"])
        best[key] = min(best.get(key, np.inf), float(row[loss]))
    n, d = np.array(sorted(best)).T
    yield "step law", Points.of(n, d, [best[key] for key in sorted(best)])


def _plain_set(folder: Path, name: str, loss: str) -> Iterator[tuple[str, Points]]:
    rows = read(folder, name)
    yield "olmo ladder", Points.of(column(rows, "N"), column(rows, "D"), column(rows, loss))


def ladders(points: Points, share: float, dice: np.random.Generator) -> Iterator[tuple[Points, int]]:
    """Designed ladders below ``share`` of a target's compute, with the target's row."""
    compute, ratio = points.compute, points.ratio
    targets = np.flatnonzero((ratio >= 5) & (ratio <= 450))
    for target in targets[np.argsort(-compute[targets])][:TARGETS]:
        near = (ratio >= ratio[target] / 3) & (ratio <= 3 * ratio[target])
        cheap = (compute <= share * compute[target]) & (compute >= compute[target] * share / 400)
        pool = np.flatnonzero(near & cheap)
        if len(pool) < 4 or compute[pool].max() < share * compute[target] / 3:
            continue
        seen = set()
        for repeat in range(REPEATS):
            chosen: list[int] = []
            at = compute[pool].max()
            for _ in range(RUNGS):
                rungs = [i for i in pool if at / 1.9 < compute[i] <= at * 1.02 and i not in chosen]
                if rungs:
                    away = np.abs(np.log(ratio[rungs] / ratio[target]))
                    chosen.append(int(dice.choice(rungs)) if repeat else rungs[int(np.argmin(away))])
                at /= STEP
            if len(chosen) >= 4 and np.unique(points.n[chosen]).size >= 2 and tuple(chosen) not in seen:
                seen.add(tuple(chosen))
                yield points.take(chosen), int(target)


def back_test(folder: Path, share: float, *, rivals: bool) -> list[dict[str, Any]]:
    """One row a ladder: what each method predicted, over what was reached."""
    dice, rows = np.random.default_rng(2), []
    for name, points in sets(folder):
        for ladder, target in ladders(points, share, dice):
            n, d, reached = points.n[target], points.d[target], points.loss[target]
            told = fit_bayes(ladder).predict(n, d)
            row = {"set": name, "cost": ladder.compute.sum() / points.compute[target], "bayes": told.median / reached - 1,
                   "inside80": bool(reached in told), "inside95": bool(told.low95 <= reached <= told.high95),
                   "width80": (told.high80 - told.low80) / reached}  # fmt: skip
            if rivals:
                line = np.polyfit(np.log(ladder.compute), np.log(ladder.loss), 1)
                row["last rung"] = ladder.loss[np.argmax(ladder.compute)] / reached - 1
                row["power law"] = np.exp(np.polyval(line, np.log(points.compute[target]))) / reached - 1
                try:
                    row["chinchilla"] = float(fit_huber(ladder)(n, d)) / reached - 1
                except DataError:  # four rungs for five constants
                    row["chinchilla"] = float(fit_by_projection(ladder, tied=True)(n, d)) / reached - 1
            rows.append(row)
    return rows


def tabulate(rows: list[dict[str, Any]], methods: list[str]) -> dict[str, Any]:
    """Per set, and over sets: median and 90th percentile of the absolute error, coverage and width, in percent."""
    by_set: dict[str, Any] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        some = [row for row in rows if row["set"] == name]
        by_set[name] = _summary(some, methods)
    means = {
        key: round(float(np.mean([one[key] for one in by_set.values()])), 3)
        for key in next(iter(by_set.values()))
        if key != "ladders"
    }
    return {"mean over sets": means, "all ladders": _summary(rows, methods), "sets": by_set}


def _summary(rows: list[dict[str, Any]], methods: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ladders": len(rows),
        "cost": 100 * float(np.median([row["cost"] for row in rows])),
    }
    for method in methods:
        errors = 100 * np.abs([row[method] for row in rows])
        told[f"{method} median"], told[f"{method} p90"] = np.median(errors), np.quantile(errors, 0.9)
    told["inside 80"] = 100 * np.mean([row["inside80"] for row in rows])
    told["inside 95"] = 100 * np.mean([row["inside95"] for row in rows])
    told["width 80"] = 100 * np.median([row["width80"] for row in rows])
    return {key: value if key == "ladders" else round(float(value), 2) for key, value in told.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--shares", nargs="+", type=float, default=[8, 15, 30, 100], help="top rung, 1 / this"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling_fits.json")
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for name, table, measure in (
        ("besiroglu", "chinchilla_epoch", besiroglu), ("gadre", "gadre_testbed", gadre),
        ("muennighoff", "datablations_fitset", repeated_tokens), ("curves", "mpl_curves", curves),
    ):  # fmt: skip
        if (asked.folder / f"{table}.csv").is_file():
            results[name] = measure(asked.folder)
            print(name, json.dumps(results[name], indent=1 if name == "curves" else None), flush=True)
    results["back-test"] = {}
    for share in asked.shares:
        main_one = share == 15
        rows = back_test(asked.folder, 1 / share, rivals=main_one)
        methods = ["bayes", *(["chinchilla", "power law", "last rung"] if main_one else [])]
        told = tabulate(rows, methods)
        results["back-test"][f"1/{share:g}"] = told
        keys = [key for key in told["all ladders"] if key != "ladders"]
        print(
            f"\ntop rung at most 1/{share:g} of the target\n{'':<22}" + "".join(f"{key:>18}" for key in keys)
        )
        for name, row in {
            **told["sets"],
            "mean over sets": told["mean over sets"],
            "all ladders": told["all ladders"],
        }.items():
            print(f"{name:<22}" + "".join(f"{row[key]:>18.2f}" for key in keys), flush=True)
    asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
