"""How true the predicted memory is, and how good the chosen split.

    python benchmarks/memory.py [live] [process] [chooser] [--pairs 20] [--configurations N]

Prints a table and writes ``benchmarks/results/memory.json``.

    live      predicted peak of live bytes against the CPU allocator's own count, over many configurations
    process   predicted against what a fresh process takes, with returned pages and with glibc as it comes
    chooser   random configurations and limits, each trained in a fresh process: did it keep to its limit, was a
              refusal right, and how does the chosen step time compare with every other split that fits

Bytes do not depend on the machine's load; the chooser's step times do: run that part alone.
"""

import argparse
import itertools
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from steepest.config import build
from steepest.train.footprint import measure_training, predict_training
from steepest.train.run import RunConfig

RESULTS = Path(__file__).parent / "results" / "memory.json"
SHAPES = (
    {"depth": 4, "width": 128, "vocab_size": 1024, "context": 256},
    {"depth": 8, "width": 256, "vocab_size": 1024, "context": 256},
    {"depth": 4, "width": 384, "vocab_size": 2048, "context": 512},
    {"depth": 6, "width": 256, "vocab_size": 8192, "context": 128, "kv_heads": 2},
    {"depth": 4, "width": 256, "vocab_size": 4096, "context": 1024, "tie_embeddings": True},
)  # fmt: skip
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"optimizer": "muon"},
    {"optimizer": "sgd"},
    {"micro_batch": 2},
    {"recompute": 1.0},
    {"recompute": 0.5, "micro_batch": 1},
    {"coupling": "reversible"},
    {"dropout": 0.1},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "coupling": "reversible"},
)


def configuration(shape: dict[str, Any], way: dict[str, Any], sequences: int = 4) -> RunConfig:
    model = {**shape, **{key: way[key] for key in ("coupling", "dropout") if key in way}}
    train: dict[str, Any] = {"steps": 1, "device": "cpu", "dtype": way.get("dtype", "float32")}
    if "micro_batch" in way:
        train["micro_batch"] = way["micro_batch"]
    if "recompute" in way:
        train |= {"backward": "recompute", "recompute_blocks": round(way["recompute"] * shape["depth"])}
    optim = {"optimizer": way.get("optimizer", "adamw")}
    batches = {"batch_tokens": sequences * shape["context"]}
    return build(RunConfig, {"model": model, "train": train, "optim": optim, "batches": batches})


def live(count: int) -> list[dict[str, Any]]:
    rows = []
    for shape, way in itertools.islice(itertools.product(SHAPES, WAYS), count):
        config = configuration(shape, way)
        prediction = predict_training(config)
        counted = max(measure_training(config))
        rows.append({"shape": shape, "way": way, "predicted": prediction.peak, "counted": counted,
                     "error": prediction.peak / counted - 1, "seconds": prediction.seconds})  # fmt: skip
        print(f"live     {label(shape, way):<64} {prediction.peak / 1e6:>8.1f} MB  {rows[-1]['error']:+.5%}  "
              f"{prediction.seconds:.2f}s", flush=True)  # fmt: skip
    errors = [abs(row["error"]) for row in rows]
    print(f"live     {len(rows)} configurations: median error {statistics.median(errors):.1e}, largest {max(errors):.2%}, "
          f"within 0.2%: {sum(error <= 0.002 for error in errors)}; slowest prediction "
          f"{max(row['seconds'] for row in rows):.1f}s")  # fmt: skip
    return rows


PROCESS = """
import gc, json, sys
import torch
from steepest.config import build
from steepest.memory.measure import peak, reset_peak, resident, return_pages
from steepest.train import footprint
from steepest.train.run import RunConfig
from steepest.train.run import sequences_per_step
values, returned = json.loads(sys.argv[1]), sys.argv[2] == "returned"
torch.set_num_threads(1)
def work(values, steps):
    config = build(RunConfig, values)
    k = config.train.recompute_blocks or 0
    objective, optimizers = footprint._parts(config, footprint.TEXT, (k, config.model.depth - k))
    batch = footprint._text(config)
    step = footprint._step(config, config.train.micro_batch or sequences_per_step(config))
    for _ in range(steps):
        step(objective, optimizers, batch, batch)
    return peak()
small = {**values, "model": {**values["model"], "depth": 1, "width": 64, "vocab_size": 64, "context": 32},
         "batches": {"batch_tokens": 64}, "train": {**values["train"], "recompute_blocks": None, "backward": None}}
for key in ("kv_heads",):
    small["model"].pop(key, None)
work(small, 2)  # loads the kernels' code
gc.collect()
if returned:
    return_pages()
reset_peak()
before = resident()
print(json.dumps(work(values, 3) - before))
"""


def process() -> list[dict[str, Any]]:
    rows = []
    ways = ({}, {"optimizer": "sgd"}, {"recompute": 1.0}, {"coupling": "reversible"}, {"micro_batch": 2},
            {"optimizer": "muon"}, {"dtype": "bfloat16"})  # fmt: skip
    for shape, way in itertools.product((SHAPES[1], SHAPES[2], SHAPES[3]), ways):
        config = configuration(shape, way, sequences=8)
        predicted = predict_training(config).peak
        row: dict[str, Any] = {"shape": shape, "way": way, "predicted": predicted}
        for mode in ("returned", "kept"):
            row[mode] = json.loads(child(PROCESS, config.model_dump_json(exclude_unset=True), mode))
        rows.append(row)
        print(f"process  {label(shape, way):<64} {predicted / 1e6:>8.1f} MB  returned {predicted / row['returned'] - 1:+.1%} "
              f"({(row['returned'] - predicted) / 1e6:+.1f} MB)  kept {predicted / row['kept'] - 1:+.1%}", flush=True)  # fmt: skip
    return rows


TRAIN = """
import json, resource, sys
from pathlib import Path
from steepest.api import train
from steepest.errors import ConfigError
from steepest.memory.measure import peak
text, cache, runs, limit, overrides = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]
try:
    run = train(text, steps=5, memory=limit, cache=cache, runs=runs, overrides=overrides)
except ConfigError as error:
    print(json.dumps({"refused": str(error)}))
else:
    seconds = [line["seconds"] for line in run.folder.read_metrics() if "loss" in line]
    steps = [b - a for a, b in zip(seconds[1:-1], seconds[2:])]
    plan = json.loads(run.folder.plan.read_text())["memory"]
    print(json.dumps({"peak": peak(), "seconds": min(steps), "plan": plan}))
"""
COMMON = ["tokenizer.kind=bytes", "train.sample_tokens=0", "train.evaluations=0", "train.threads=1", "optim.optimizer=adamw",
          "train.dtype=float32", "model.context=128"]  # fmt: skip


def chooser(pairs: int) -> list[dict[str, Any]]:
    dice, rows = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(
            "All happy families are alike; each unhappy family is unhappy in its own way.\n" * 2000
        )

        def trained(limit: int, overrides: list[str]) -> dict[str, Any]:
            runs = tempfile.mkdtemp(dir=folder)
            found: dict[str, Any] = json.loads(
                child(
                    TRAIN, str(text), f"{folder}/cache", runs, str(limit), *COMMON, *overrides
                ).splitlines()[-1]
            )
            return found

        for pair in range(pairs):
            shape = [f"model.depth={dice.choice([2, 4, 8])}", f"model.width={dice.choice([128, 256])}",
                     f"batches.batch_tokens={128 * dice.choice([8, 16, 32])}"]  # fmt: skip
            limit = round(dice.uniform(350e6, 900e6))
            row = {"shape": shape, "limit": limit, **trained(limit, shape)}
            if "refused" in row:
                # The least split, told that it has more: would it have fit with 15% to spare?
                depth = shape[0].split("=")[1]
                least = trained(10**11, [*shape, "train.micro_batch=1", f"train.recompute_blocks={depth}"])
                row["least_peak"] = least["peak"]
                row["right"] = least["peak"] > limit / 1.15
                verdict = f"refused; the least split takes {least['peak'] / 1e6:.0f} MB"
            else:
                row["kept"] = row["peak"] <= limit
                others = []
                depth, sequences = int(shape[0].split("=")[1]), int(shape[2].split("=")[1]) // 128
                for micro, k in itertools.product(halves(sequences), (0, depth // 2, depth)):
                    other = trained(
                        limit, [*shape, f"train.micro_batch={micro}", f"train.recompute_blocks={k}"]
                    )
                    if "refused" not in other and other["peak"] <= limit:
                        others.append((other["seconds"], micro, k))
                row["best"] = min(others, default=(row["seconds"], 0, 0))
                row["over_best"] = row["seconds"] / row["best"][0] - 1
                plan = row["plan"]
                verdict = (f"took {row['peak'] / 1e6:.0f} MB (predicted {plan['predicted'] / 1e6:.0f}), {plan['micro_batch']} x "
                           f"{plan['recompute_blocks']}, {row['over_best']:+.0%} of the best")  # fmt: skip
            rows.append(row)
            print(f"chooser  {pair + 1:>2} {' '.join(re.sub('.*[.]', '', one) for one in shape)}, {limit / 1e6:.0f} MB: "
                  f"{verdict}", flush=True)  # fmt: skip
    kept = [row for row in rows if "kept" in row]
    print(f"chooser  {len(rows)} pairs: {sum(row['kept'] for row in kept)} of {len(kept)} kept to the limit; "
          f"{sum(row.get('right', False) for row in rows)} of {len(rows) - len(kept)} refusals were right")  # fmt: skip
    return rows


def halves(sequences: int) -> list[int]:
    return [sequences >> i for i in range(sequences.bit_length())]


def child(code: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def label(shape: dict[str, Any], way: dict[str, Any]) -> str:
    told = " ".join(f"{key}={value}" for key, value in way.items())
    return f"{shape['depth']} x {shape['width']}, {shape['context']} tokens, vocabulary {shape['vocab_size']} {told}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="live, process, chooser; the first two if none")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--configurations", type=int, default=len(SHAPES) * len(WAYS))
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in arguments.parts or ["live", "process"]:
        results[part] = {"live": lambda: live(arguments.configurations), "process": process,
                         "chooser": lambda: chooser(arguments.pairs)}[part]()  # fmt: skip
        results["machine"] = {
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
