"""How true the predicted memory is, and how soon it is known. (How good the choice: memory_choice.py.)

    python benchmarks/memory.py [live] [process] [speed] [pages] [gpu]

Prints tables and writes ``benchmarks/results/memory.json``; rows of ``live`` and ``process`` that are there already are
kept, unless ``--anew``.

    live      predicted peak of live bytes against the CPU allocator's own count, over many configurations
    process   predicted against what a fresh process takes, with returned pages and with glibc as it comes
    speed     seconds a prediction takes, by depth and way
    pages     what a process takes and how long a step is, by the size from which glibc returns freed blocks
    gpu       predicted against what torch's allocator reserves on a GPU, where there is one

Bytes do not depend on the machine's load; run ``speed`` and ``pages`` alone.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from steepest.config import build
from steepest.memory.choose import CUDA
from steepest.train import footprint
from steepest.train.footprint import measure_training, predict_training
from steepest.train.run import RunConfig, sequences_per_step

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
    {"micro_batch": 1},
    {"recompute": 1.0},
    {"recompute": 0.5, "micro_batch": 1},
    {"coupling": "reversible"},
    {"dropout": 0.1},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "coupling": "reversible"},
    {"in_backward": True, "recompute": 1.0},
)


def configuration(
    shape: dict[str, Any], way: dict[str, Any], sequences: int = 2, device: str = "cpu"
) -> RunConfig:
    """One run's config."""
    model = {**shape, **{key: way[key] for key in ("coupling", "dropout") if key in way}}
    train: dict[str, Any] = {"steps": 1, "device": device, "dtype": way.get("dtype", "float32")}
    if "micro_batch" in way:
        train["micro_batch"] = way["micro_batch"]
    if "recompute" in way:
        train |= {"backward": "recompute", "recompute_blocks": round(way["recompute"] * shape["depth"])}
    optim: dict[str, Any] = {"optimizer": way.get("optimizer", "adamw")}
    if "in_backward" in way:
        train["step_in_backward"], optim["clip"] = True, 0.0
    batches = {"batch_tokens": sequences * shape["context"]}
    return build(RunConfig, {"model": model, "train": train, "optim": optim, "batches": batches})


def live() -> list[dict[str, Any]]:
    rows = kept("live")
    for shape, way in missing(rows, SHAPES, WAYS):
        config = configuration(shape, way)
        prediction = predict_training(config)
        counted = max(measure_training(config))
        rows.append(
            {
                "shape": shape,
                "way": way,
                "predicted": prediction.peak,
                "counted": counted,
                "error": prediction.peak / counted - 1,
            }
        )
        print(
            f"live     {label(shape, way):<66} {prediction.peak / 1e6:>8.1f} MB  {rows[-1]['error']:+.5%}",
            flush=True,
        )
        keep("live", rows)
    errors = [abs(row["error"]) for row in rows]
    print(f"live     {len(rows)} configurations: median error {statistics.median(errors):.1e}, largest {max(errors):.3%}, "
          f"within 0.2%: {sum(error <= 0.002 for error in errors)}")  # fmt: skip
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
         "batches": {"batch_tokens": 64}, "train": {**values["train"], "recompute_blocks": min(1, values["train"].get("recompute_blocks") or 0) or None}}
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
PAGES = """
import json, sys, time
import torch
from steepest.config import build
from steepest.memory.measure import peak, reset_peak, resident, return_pages
from steepest.train import footprint
from steepest.train.run import RunConfig, sequences_per_step
values, threshold = json.loads(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
if threshold:
    return_pages(threshold)
config = build(RunConfig, values)
k = config.train.recompute_blocks or 0
before = resident()
objective, optimizers = footprint._parts(config, footprint.TEXT, (k, config.model.depth - k))
batch, step = footprint._text(config), footprint._step(config, config.train.micro_batch or sequences_per_step(config))
seconds = []
for _ in range(5):
    began = time.process_time()
    step(objective, optimizers, batch, batch)
    seconds.append(time.process_time() - began)
print(json.dumps([peak() - before, min(seconds[2:])]))
"""


def process() -> list[dict[str, Any]]:
    rows = kept("process")
    ways = ({}, {"optimizer": "sgd"}, {"recompute": 1.0}, {"coupling": "reversible"}, {"micro_batch": 1},
            {"optimizer": "muon"}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "coupling": "reversible"})  # fmt: skip
    for shape, way in missing(rows, (SHAPES[1], SHAPES[3]), ways):
        config = configuration(shape, way, sequences=4 * 256 // shape["context"])
        predicted = predict_training(config).peak
        row: dict[str, Any] = {"shape": shape, "way": way, "predicted": predicted}
        for mode in ("returned", "kept"):
            row[mode] = json.loads(child(PROCESS, config.model_dump_json(exclude_unset=True), mode))
        least = 10e6 if way.get("dtype") == "bfloat16" else 0.0
        row["met"] = abs(row["returned"] - predicted) <= 0.03 * row["returned"] + least
        rows.append(row)
        print(f"process  {label(shape, way):<66} {predicted / 1e6:>8.1f} MB  returned {predicted / row['returned'] - 1:+.1%} "
              f"({(row['returned'] - predicted) / 1e6:+.1f} MB)  kept {predicted / row['kept'] - 1:+.1%}", flush=True)  # fmt: skip
        keep("process", rows)
    print(f"process  within 3% (bfloat16: 10 MB more): {sum(row['met'] for row in rows)} of {len(rows)}; glibc as it comes "
          f"holds up to {max(row['kept'] / row['predicted'] - 1 for row in rows):.0%} more than is live")  # fmt: skip
    return rows


def speed() -> list[dict[str, Any]]:
    rows = []
    ways = ({}, {"recompute": 0.5}, {"coupling": "reversible"}, {"optimizer": "muon", "micro_batch": 1})
    predict_training(configuration(SHAPES[0], {}))  # imports
    for depth, way in itertools.product((8, 64), ways):
        prediction = predict_training(configuration({**SHAPES[1], "depth": depth}, way))
        rows.append({"depth": depth, "way": way, "seconds": prediction.seconds})
        print(f"speed    {depth} blocks {way}: {prediction.seconds:.2f}s", flush=True)
    return rows


def pages() -> list[dict[str, Any]]:
    rows = []
    cases = ((SHAPES[1], {}), (SHAPES[1], {"recompute": 1.0}), (SHAPES[3], {"micro_batch": 2}))
    for shape, way in cases:
        config = configuration(shape, way, sequences=1024 // shape["context"])
        predicted = predict_training(config).peak
        for threshold in (0, 64 << 10, 256 << 10, 1 << 20, 4 << 20):
            taken, seconds = json.loads(
                child(PAGES, config.model_dump_json(exclude_unset=True), str(threshold))
            )
            rows.append({"shape": shape, "way": way, "threshold": threshold, "predicted": predicted,
                         "taken": taken, "seconds": seconds})  # fmt: skip
            told = f"{threshold >> 10} KiB" if threshold else "as it comes"
            print(
                f"pages    {label(shape, way):<66} {told:>11}: {taken / predicted - 1:+.1%}, {seconds:.2f}s a step",
                flush=True,
            )
    return rows


def gpu() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if not torch.cuda.is_available():
        print("gpu      there is none")
        return rows
    device = torch.device("cuda")
    for shape, way in itertools.product(SHAPES, WAYS):
        config = configuration(
            {**shape, "depth": 4 * shape["depth"], "width": 2 * shape["width"]}, way, 16, "cuda"
        )
        predicted = CUDA.bytes(predict_training(config))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        k = config.train.recompute_blocks or 0
        with device:
            objective, optimizers = footprint._parts(config, footprint.TEXT, (k, config.model.depth - k))
        batch = footprint._text(config).to(device)
        step = footprint._step(config, config.train.micro_batch or sequences_per_step(config))
        for _ in range(3):
            step(objective, optimizers, batch, batch)
        reserved = torch.cuda.max_memory_reserved() - before
        rows.append({"shape": shape, "way": way, "predicted": predicted, "reserved": reserved})
        print(
            f"gpu      {label(shape, way):<66} {predicted / 1e6:>8.1f} MB  {predicted / reserved - 1:+.1%}",
            flush=True,
        )
        del objective, optimizers, batch
    return rows


def kept(part: str) -> list[dict[str, Any]]:
    """Rows measured before, by a process that may have been stopped."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()).get(part, []) if RESULTS.exists() else []
    return rows


def keep(part: str, rows: list[dict[str, Any]]) -> None:
    """Write a part's rows beside those of the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {
        part: rows,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def missing(
    rows: list[dict[str, Any]], shapes: Iterable[dict[str, Any]], ways: Iterable[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of shape and way that no row is of yet."""
    known = [(row["shape"], row["way"]) for row in rows]
    return [pair for pair in itertools.product(shapes, ways) if pair not in known]


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
    parser.add_argument("parts", nargs="*", help="live, process, speed, pages, gpu; all if none")
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    torch.set_num_threads(1)
    parts = {"live": live, "process": process, "speed": speed, "pages": pages, "gpu": gpu}
    if arguments.anew:
        RESULTS.unlink(missing_ok=True)
    for part in arguments.parts or parts:
        keep(part, parts[part]())


if __name__ == "__main__":
    main()
