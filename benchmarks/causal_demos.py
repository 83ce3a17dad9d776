"""Three demonstrations with known truth: Simpson's paradox, the wrong arrow, the front door; and two refusals.

    python benchmarks/causal_demos.py [--out benchmarks/results/causal_demos.jsonl] [--seeds 0 1 2] [--steps 200]

Each seed trains anew (weights and, where rows are drawn, rows). Prints every figure beside its truth; what the file holds
already is passed over.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
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


def simpson(place: Path, seed: int, steps: int) -> dict[str, Any]:
    """The 700 patients: effect of A over B, seen and done."""
    began = time.process_time()
    model = train(place, "stone,treatment,recovered", kidney_rows(), SIMPSON, seed, steps)
    reply = model.ask("recovered | do(treatment=A|B)")
    found = {"seen": effect(reply, reply.seen, "yes"), "done": effect(reply, reply.answers, "yes")}
    return {**found, "truth": kidney_truth(), "cpu": round(time.process_time() - began, 1)}


def arrow(place: Path, seed: int, steps: int, label: str) -> dict[str, Any]:
    """20,000 draws, one of three complete graphs: held-out log-likelihood on 50,000 more, and the "effect"."""
    names = "stone,treatment,recovered"
    model = train(place, names, kidney_rows(ROWS, 10 + seed), ARROWS[label], seed, steps)
    (place / "test.csv").write_text("\n".join([names, *map(",".join, kidney_rows(TEST_ROWS, 20 + seed))]))
    reply = model.ask("recovered | do(treatment=A|B)")
    held_out = model.evaluate([str(place / "test.csv")])["log_likelihood"]
    return {"graph": label, "held_out": held_out, "effect": effect(reply, reply.answers, "yes")}


def front_door(place: Path, seed: int, steps: int, label: str) -> dict[str, Any]:
    """20,000 rows with a hidden cause of x and y: P(y=1 | do(x)), and what is seen."""
    graph = {"front door": "x -> m -> y\nx <-> y", "hidden cause denied": "x -> m -> y"}[label]
    model = train(place, "x,m,y", front_door_rows(ROWS, seed), graph, seed, steps)
    reply = model.ask("y | do(x=0|1)")
    done, seen = ([float(answer.p[1]) for answer in part.values()] for part in (reply.answers, reply.seen))
    return {"graph": label, "done": done, "seen": seen, "truth": FRONT_DOOR_TRUTH}


def refusal(place: Path, graph: str) -> dict[str, Any]:
    """A bow: the answer must be a refusal."""
    names = "x,m,y" if "m" in graph else "x,y"
    rows = [row if "m" in graph else (row[0], row[2]) for row in front_door_rows(500, 0)]
    model = train(place, names, rows, graph, 0, 5)
    try:
        reply = model.ask("y | do(x=1)")
    except QueryError as error:
        return {"graph": graph, "refused": str(error)}
    raise SystemExit(f"answered {reply.p}, although {graph!r} settles nothing")


def main() -> None:
    """Run what is not done yet, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/causal_demos.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps, out = arguments.steps, arguments.out
    work: dict[tuple[str, int, str], Any] = {}
    for seed in arguments.seeds:
        work["simpson", seed, ""] = partial(simpson, seed=seed, steps=steps)
        for label in ARROWS:
            work["arrow", seed, label] = partial(arrow, seed=seed, steps=steps, label=label)
        for label in ("front door", "hidden cause denied"):
            work["front door", seed, label] = partial(front_door, seed=seed, steps=steps, label=label)
    for graph in ("x -> y\nx <-> y", "x -> m -> y\nx <-> m"):
        work["refusal", 0, graph] = partial(refusal, graph=graph)
    for (demo, seed, label), act in work.items():
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if (demo, seed, label) in {(one["demo"], one["seed"], one.get("graph", "")) for one in lines}:
            continue
        with tempfile.TemporaryDirectory() as place:
            found = {"demo": demo, "seed": seed, **act(Path(place))}
        with out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(found, flush=True)


if __name__ == "__main__":
    main()
