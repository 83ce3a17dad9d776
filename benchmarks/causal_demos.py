"""Three demonstrations with known truth: Simpson's paradox, the wrong arrow, the front door; and two refusals.

    python benchmarks/causal_demos.py --out benchmarks/results/causal_demos.json [--seeds 0 1 2] [--steps 300]

Each seed trains anew (weights and, where rows are drawn, rows). Prints every figure beside its truth.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steepest
from steepest.errors import QueryError

KIDNEY = {
    ("small", "A"): (81, 87),
    ("large", "A"): (192, 263),
    ("small", "B"): (234, 270),
    ("large", "B"): (55, 80),
}  # recovered, of all: C. R. Charig et al., British Medical Journal 292, 1986
SIMPSON = "stone -> treatment\nstone -> recovered\ntreatment -> recovered"
ARROWS = {
    "stone is a cause of treatment": SIMPSON,
    "treatment is a cause of stone": "treatment -> stone\ntreatment -> recovered\nstone -> recovered",
    "recovered is a cause of both": "recovered -> treatment\nrecovered -> stone\ntreatment -> stone",
}
ROWS, TEST_ROWS = 20_000, 50_000


def kidney_truth() -> dict[str, float]:
    """Effect of A over B by the table itself: seen, and done (back door over the stone's size)."""
    share = {key: ok / n for key, (ok, n) in KIDNEY.items()}
    large = sum(n for (stone, _), (_, n) in KIDNEY.items() if stone == "large") / 700
    done = {t: share["small", t] * (1 - large) + share["large", t] * large for t in "AB"}
    seen = {
        t: sum(ok for (_, u), (ok, _) in KIDNEY.items() if u == t) / sum(n for (_, u), (_, n) in KIDNEY.items() if u == t)
        for t in "AB"
    }  # fmt: skip
    return {"seen": seen["A"] - seen["B"], "done": done["A"] - done["B"]}


def kidney_rows(n: int | None = None, seed: int = 0) -> list[tuple[str, ...]]:
    """The 700 patients, or draws from their joint distribution."""
    rows = [
        (stone, treatment, outcome)
        for (stone, treatment), (ok, all_) in KIDNEY.items()
        for outcome, count in (("yes", ok), ("no", all_ - ok))
        for _ in range(count)
    ]
    if n is None:
        return rows
    return [rows[k] for k in np.random.default_rng(seed).integers(0, len(rows), n)]


def front_door_rows(n: int, seed: int) -> list[tuple[str, ...]]:
    """A hidden u causes x and y; x -> m -> y. u is thrown away."""
    dice = np.random.default_rng(seed)
    u = dice.random(n) < 0.5
    x = dice.random(n) < np.where(u, 0.85, 0.15)
    m = dice.random(n) < np.where(x, 0.9, 0.2)
    y = dice.random(n) < 0.1 + 0.3 * m + 0.5 * u
    return [tuple(str(int(v)) for v in row) for row in zip(x, m, y, strict=True)]


FRONT_DOOR_TRUTH = {"0": 0.1 + 0.3 * 0.2 + 0.25, "1": 0.1 + 0.3 * 0.9 + 0.25}


def train(folder: Path, names: str, rows: list[tuple[str, ...]], graph: str, seed: int, steps: int) -> Any:
    """One run on some rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("\n".join([names, *map(",".join, rows)]))
    (folder / "graph").write_text(graph)
    return steepest.train(
        folder / "rows.csv", steps=steps, runs=folder, overrides=[f"train.seed={seed}", f"batches.seed={seed}"],
        config={"objective": {"kind": "causal-graph", "graph": str(folder / "graph")}},
    )  # fmt: skip


def effect(reply: Any, answers: Mapping[str, Any], category: str) -> float:
    """First answer less second."""
    first, second = answers.values()
    at = reply.categories.index(category)
    return float(first.p[at] - second.p[at])


def run(place: Path, seeds: list[int], steps: int) -> dict[str, Any]:
    """All demonstrations."""
    names, truth = "stone,treatment,recovered", kidney_truth()
    found: dict[str, Any] = {
        "simpson": {"truth": truth, "runs": []},
        "arrows": [],
        "front door": {"truth": FRONT_DOOR_TRUTH, "runs": []},
    }
    for seed in seeds:
        began = time.process_time()
        model = train(place / f"simpson-{seed}", names, kidney_rows(), SIMPSON, seed, steps)
        reply = model.ask("recovered | do(treatment=A|B)")
        one = {"seen": effect(reply, reply.seen, "yes"), "done": effect(reply, reply.answers, "yes")}
        one |= {
            f"{word} {c}": float(a.p[1])
            for word, part in (("seen", reply.seen), ("done", reply.answers))
            for c, a in part.items()
        }
        one["cpu"] = round(time.process_time() - began, 1)
        found["simpson"]["runs"].append(one)
        print(
            f"simpson    seed {seed}: seen {one['seen']:+.4f} (truth {truth['seen']:+.4f}), done {one['done']:+.4f} (truth {truth['done']:+.4f}), {one['cpu']} CPU s",
            flush=True,
        )
    for seed in seeds:
        rows, test = kidney_rows(ROWS, 10 + seed), kidney_rows(TEST_ROWS, 20 + seed)
        (place / "test.csv").write_text("\n".join([names, *map(",".join, test)]))
        for label, graph in ARROWS.items():
            model = train(place / f"arrow-{seed}-{label[:3]}", names, rows, graph, seed, steps)
            reply = model.ask("recovered | do(treatment=A|B)")
            one = {
                "graph": label,
                "seed": seed,
                "held_out": model.evaluate([str(place / "test.csv")])["log_likelihood"],
                "effect": effect(reply, reply.answers, "yes"),
            }
            found["arrows"].append(one)
            print(
                f"arrow      seed {seed}: {label}: held out {one['held_out']:.4f}, 'effect' {one['effect']:+.4f}",
                flush=True,
            )
    for seed in seeds:
        rows = front_door_rows(ROWS, seed)
        one = {}
        for label, graph in (("front door", "x -> m -> y\nx <-> y"), ("hidden cause denied", "x -> m -> y")):
            model = train(place / f"door-{seed}-{label[:5]}", "x,m,y", rows, graph, seed, steps)
            reply = model.ask("y | do(x=0|1)")
            one[label] = {c: float(a.p[1]) for c, a in zip("01", reply.answers.values(), strict=True)}
            if label == "front door":
                one["seen"] = {c: float(a.p[1]) for c, a in zip("01", reply.seen.values(), strict=True)}
        found["front door"]["runs"].append(one)
        print(f"front door seed {seed}: {one} (truth {FRONT_DOOR_TRUTH})", flush=True)
    for graph, text in (("x -> y\nx <-> y", "x,y"), ("x -> m -> y\nx <-> m", "x,m,y")):
        rows = [row if len(text) > 3 else (row[0], row[2]) for row in front_door_rows(500, 0)]
        model = train(place / f"bow-{len(text)}", text, rows, graph, 0, 5)
        try:
            model.ask("y | do(x=1)")
            raise SystemExit(f"answered, although {graph!r} settles nothing")
        except QueryError as error:
            print(f"refused    {error}", flush=True)
    return found


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/causal_demos.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        found = run(Path(place), arguments.seeds, arguments.steps)
    arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
