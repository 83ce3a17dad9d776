"""How good the chosen split is: random configurations and limits, each trained in fresh processes.

    python benchmarks/memory_choice.py [--pairs 20] [--first 0] [--jobs 1]

For every pair: did the process keep to its limit from start to end, and how does the chosen step compare with every
other split that fits? A refusal is right unless the least split (one sequence, everything recomputed, pages
returned) would have fit with 15% to spare. The other splits are timed in two fresh processes, one for each way of
holding memory, in CPU seconds, the least of three steps. Run it alone. Prints a table and adds to
``benchmarks/results/memory_choice.json``.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory_choice.json"
CONTEXT = 128
COMMON = ["tokenizer.kind=bytes", "train.sample_tokens=0", "train.evaluations=0", "train.threads=1", "optim.optimizer=adamw",
          "train.dtype=float32", f"model.context={CONTEXT}"]  # fmt: skip
TRAIN = """
import json, sys
from steepest.api import train
from steepest.errors import ConfigError
from steepest.memory.measure import peak
text, folder, limit, overrides = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
peaks = []
try:
    run = train(text, steps=4, memory=limit, cache=folder, runs=folder, overrides=overrides,
                listen=lambda name, fields: peaks.append(peak()))
except ConfigError as error:
    print(json.dumps({"refused": str(error)}))
else:
    plan = json.loads(run.folder.plan.read_text())["memory"]
    print(json.dumps({"peak": max(*peaks, peak()), "plan": plan}))
"""
TIME = """
import json, sys, time
import torch
from steepest.config import build, override
from steepest.memory.choose import KEPT, RETURNED
from steepest.train import footprint
from steepest.train.footprint import predict_training
from steepest.train.run import RunConfig
from steepest.train.split import hold_as
torch.set_num_threads(1)
holding, limit, before, splits, overrides, peaks = json.loads(sys.argv[1])
hold_as(holding)
way = {one.name: one for one in (KEPT, RETURNED)}[holding]
seconds = {}
for micro, k in splits:
    values = override({}, [*overrides, f"train.micro_batch={micro}", "train.steps=1", "optim.lr=1e-3", "model.vocab_size=256"])
    config = build(RunConfig, values)
    if k:
        config = config.replace(train=config.train.replace(backward="recompute", recompute_blocks=k))
    name = f"{micro} x {k}"
    if name not in peaks:
        peaks[name] = predict_training(config).peak
    if before + peaks[name] * (1 + way.share) + way.fixed > limit:
        continue
    objective, optimizers = footprint._parts(config, footprint.TEXT, (k, config.model.depth - k))
    batch, step = footprint._text(config), footprint._step(config, micro)
    found = []
    for _ in range(4):
        began = time.process_time()
        step(objective, optimizers, batch, batch)
        found.append(time.process_time() - began)
    seconds[name] = min(found[1:])
    del objective, optimizers, batch
print(json.dumps({"seconds": seconds, "peaks": peaks}))
"""


def pair(number: int, text: Path, folder: str) -> dict[str, Any]:
    """One random configuration and limit."""
    dice = random.Random(number)
    depth, width, sequences = dice.choice([2, 3, 4]), dice.choice([128, 192]), dice.choice([8, 16])
    limit = round(dice.uniform(440e6, 560e6))
    shape = [f"model.depth={depth}", f"model.width={width}", f"batches.batch_tokens={CONTEXT * sequences}"]
    row: dict[str, Any] = {"depth": depth, "width": width, "sequences": sequences, "limit": limit}
    row |= child(TRAIN, str(text), tempfile.mkdtemp(dir=folder), str(limit), *COMMON, *shape)
    if "refused" in row:
        # What would fit, when it may take a little more than what is said to be needed (the process itself varies).
        needed = int(re.search(r"needs ([\d,]+) MB", row["refused"])[1].replace(",", ""))  # type: ignore[index]
        least = child(TRAIN, str(text), tempfile.mkdtemp(dir=folder), f"{needed + 15}MB", *COMMON, *shape)
        if "refused" in least:
            raise RuntimeError(
                f"{needed + 15} MB were refused, though {needed} MB were asked for: {least['refused']}"
            )
        row["least_peak"] = least["peak"]
        row["right"] = least["peak"] > limit / 1.15
        return row
    plan = row["plan"]
    row["kept"] = row["peak"] <= limit
    chosen = plan["micro_batch"], plan["recompute_blocks"]
    splits = sorted(
        {(sequences >> i, k) for i in range(sequences.bit_length()) for k in (0, depth)} | {chosen}
    )
    timed: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for holding in ("freed pages kept", "freed pages returned"):
        found = child(TIME, json.dumps([holding, limit, plan["before"], splits, [*COMMON, *shape], peaks]))
        peaks = found["peaks"]
        timed |= {f"{name}, {holding}": seconds for name, seconds in found["seconds"].items()}
    row["chosen"] = f"{chosen[0]} x {chosen[1]}, {plan['allocator']}"
    row["best"] = min(timed, key=lambda name: timed[name])
    row["over_best"] = timed[row["chosen"]] / timed[row["best"]] - 1
    row["timed"] = timed
    return row


def told(row: dict[str, Any]) -> str:
    """A row in words."""
    shape = f"{row['depth']} x {row['width']}, {row['sequences']} sequences, {row['limit'] / 1e6:.0f} MB: "
    if "refused" in row:
        return f"{shape}refused; the least split takes {row['least_peak'] / 1e6:.0f} MB"
    return (
        f"{shape}took {row['peak'] / 1e6:.0f} MB (predicted {row['plan']['predicted'] / 1e6:.0f}); {row['chosen']}, "
        f"{row['over_best']:+.1%} of the best of {len(row['timed'])} ({row['best']})"
    )


def child(code: str, *arguments: str) -> dict[str, Any]:
    """What a fresh process printed last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first pair; earlier ones keep their figures"
    )
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time, one core each")
    asked = parser.parse_args()
    rows = json.loads(RESULTS.read_text())[: asked.first] if asked.first else []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        text = Path(folder) / "text.txt"
        text.write_text(
            "All happy families are alike; each unhappy family is unhappy in its own way.\n" * 2000
        )
        numbers = range(asked.first, asked.first + asked.pairs)
        for row in pool.map(lambda number: pair(number, text, folder), numbers):
            rows.append(row)
            print(f"{len(rows):>3}  {told(row)}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    run = [row for row in rows if "kept" in row]
    over = [row["over_best"] for row in run]
    print(f"{len(rows)} pairs: {sum(row['kept'] for row in run)} of {len(run)} kept to the limit; "
          f"{sum(row.get('right', False) for row in rows)} of {len(rows) - len(run)} refusals were right; chosen within 5% "
          f"of the best: {sum(one <= 0.05 for one in over)} of {len(over)}, at most {max(over, default=0):+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
