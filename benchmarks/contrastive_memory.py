"""Memory of contrastive learning: the loss layer alone, and a whole step with cached gradients.

    python benchmarks/contrastive_memory.py [--only loss,step]

loss  forward and backward of symmetric InfoNCE on random unit vectors of width 128, tiled and dense, by batch
step  one step (gradient and AdamW) on pairs of 16 tokens, 4 layers x 256, with the gradient cached and whole

Every case runs in a process of its own. Memory is the peak of the resident set above what stood before the case
(model and data are made, nothing else), from ``VmHWM``; speed is per CPU second, so a neighbour's work counts
less, and beside it the share of what the machine's float32 matrix product does at that moment. Kept in ``benchmarks/results/contrastive_memory.json``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from steepest.losses import info_nce
from steepest.memory.gradient_caching import cached_gradient
from steepest.model import Transformer, TransformerConfig
from steepest.model.size import flops_per_token
from steepest.optim import OptimConfig, build_optimizer
from steepest.planning.measure import matrix_product_flops

RESULTS = Path(__file__).parent / "results" / "contrastive_memory.json"
LENGTH, WIDTH, DEPTH, VOCABULARY = 16, 256, 4, 8192
CASES = [
    *(("loss", "tiled", batch) for batch in (4096, 16384, 65536)),
    *(("loss", "dense", batch) for batch in (4096, 8192)),
    *(("step", "cached float32", batch) for batch in (1024, 4096)),
    ("step", "cached bfloat16", 4096),
    *(("step", "whole float32", batch) for batch in (64, 256)),
]


def peak(work: Callable[[], object]) -> tuple[float, float]:
    """Peak of resident memory above the start, in MB, and CPU seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.process_time()
    work()
    return resident("VmHWM") - before, time.process_time() - began


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def loss_case(way: str, batch: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    q, k = (F.normalize(torch.randn(batch, 128, generator=generator), dim=1).requires_grad_() for _ in "qk")
    scale = torch.tensor(20.0, requires_grad=True)

    def work() -> None:
        if way == "tiled":
            value = info_nce(q, k, scale=scale)
        else:
            scores, own = scale * q @ k.T, torch.arange(batch)
            value = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
        value.backward()

    small = q[:8].detach().requires_grad_()
    info_nce(small, small, scale=scale).backward()  # first use of threads and kernels
    scale.grad = None
    megabytes, seconds = peak(work)
    return {"megabytes": megabytes, "cpu_seconds": seconds}


def step_case(way: str, batch: int) -> dict[str, float]:
    config = TransformerConfig(vocab_size=VOCABULARY, context=LENGTH, depth=DEPTH, width=WIDTH)
    trunk = Transformer(config, torch.Generator().manual_seed(0))
    optimizer = build_optimizer(
        trunk.named_parameters(), OptimConfig(optimizer="adamw", lr=1e-4), trunk.roles()
    )
    ids = torch.randint(0, VOCABULARY, (2 * batch, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, LENGTH, LENGTH, dtype=torch.bool)
    how, dtype = way.split()
    autocast = torch.bfloat16 if dtype == "bfloat16" else None

    def encode(part: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            return F.normalize(trunk(part, mask=mask).float().mean(1), dim=1)

    def loss(rows: Tensor) -> Tensor:
        return info_nce(rows[: len(rows) // 2], rows[len(rows) // 2 :], scale=20.0)

    def work(ids: Tensor = ids) -> None:
        if how == "cached":
            cached_gradient([partial(encode, part) for part in ids.split(32)], loss, random=False)
        else:
            loss(encode(ids)).backward()
        optimizer.step()
        optimizer.zero_grad()

    loss(encode(ids[:4])).backward()
    trunk.zero_grad()
    megabytes, seconds = peak(work)
    passes = 4 / 3 if how == "cached" else 1.0  # forward twice
    body = flops_per_token(config) - 6 * VOCABULARY * WIDTH  # there is no head
    flops = passes * body * 2 * LENGTH * batch / seconds
    return {"megabytes": megabytes, "cpu_seconds": seconds, "pairs_per_cpu_second": batch / seconds,
            "of_matrix_product": flops / matrix_product_flops()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="loss,step")
    parser.add_argument("--case", nargs=3, metavar=("PART", "WAY", "BATCH"), help="one case, as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        part, way, batch = arguments.case
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        print(json.dumps((loss_case if part == "loss" else step_case)(way, int(batch))))
        return
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for part, way, batch in CASES:
        if part not in arguments.only.split(","):
            continue
        command = [sys.executable, __file__, "--case", part, way, str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"part": part, "way": way, "batch": batch, **json.loads(done.stdout)}
        kept = [old for old in kept if (old["part"], old["way"], old["batch"]) != (part, way, batch)] + [row]
        speed, share = (row.get(name, math.nan) for name in ("pairs_per_cpu_second", "of_matrix_product"))
        print(
            f"{part:<6}{way:<17}{batch:>7,}{row['megabytes']:>9.0f} MB{row['cpu_seconds']:>8.2f} CPU-s{speed:>8.0f} pairs/CPU-s{share:>7.2f}"
        )
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
