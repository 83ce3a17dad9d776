"""Training arithmetic achieved, over the machine's own large matrix product measured in the same run.

    python benchmarks/throughput.py [--threads N] [--depth 6] [--steps 5] [--out FILE]

A row is a whole training step (forward, backward, clipping, AdamW) of 16 sequences of 256 tokens, eager or with
compiled blocks, in micro-batches of 4 or 16. Its FLOP/s are ``flops_per_token`` (what training needs, nothing
computed twice) times tokens over the median seconds of a step. The first step, which compiles, is reported and
not counted. The matrix product is float32 and large; it is timed before, between and after the rows, and the
fastest is what every row is held against. Rows in bfloat16 are held against the float32 product too: they are no
like-for-like comparison, and marked. Prints a table and writes ``benchmarks/results/throughput.json``.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from steepest.model import TransformerConfig, flops_per_token, n_parameters
from steepest.optim import OptimConfig
from steepest.planning.measure import StepProbe, matrix_product_flops
from steepest.train.speed import usable_cores

RESULTS = Path(__file__).parent / "results" / "throughput.json"
SEQUENCES = 16
PRODUCT_SIZES = (1024, 2048)


def fastest_product(seconds: float) -> float:
    """FLOP/s of the faster of two large float32 matrix products."""
    return max(matrix_product_flops(size=size, seconds=seconds) for size in PRODUCT_SIZES)


def measure(
    config: TransformerConfig, *, compiled: bool, dtype: str, micro_batch: int, steps: int
) -> dict[str, Any]:
    """Seconds of the first step, median and fastest of the next ``steps``."""
    torch.compiler.reset()
    probe = StepProbe(
        config,
        OptimConfig(optimizer="adamw"),
        sequences=SEQUENCES,
        micro_batch=micro_batch,
        device=torch.device("cpu"),
        autocast=torch.bfloat16 if dtype == "bfloat16" else None,
    )
    if compiled:
        for block in probe.objective.trunk.blocks:
            block.compile()
    taken = []
    for _ in range(1 + steps):
        began = time.perf_counter()
        probe()
        taken.append(time.perf_counter() - began)
    warm_up_s, median_s = taken[0], statistics.median(taken[1:])
    tokens = SEQUENCES * config.context
    return {
        "mode": "compiled" if compiled else "eager",
        "dtype": dtype,
        "like_for_like": dtype == "float32",
        "micro_batch": micro_batch,
        "warm_up_s": warm_up_s,
        "step_s": median_s,
        "fastest_step_s": min(taken[1:]),
        "tokens_per_s": tokens / median_s,
        "flops": flops_per_token(config) * tokens / median_s,
    }


def show(config: TransformerConfig, rows: list[dict[str, Any]], products: list[float]) -> None:
    best = max(products)
    print(
        f"{config.depth} layers of width {config.width}, vocabulary {config.vocab_size}, context {config.context}: "
        f"{n_parameters(config):,} parameters, {flops_per_token(config) / 1e6:.1f} MFLOP a token; "
        f"{SEQUENCES} sequences a step; {torch.get_num_threads()} threads"
    )
    print(
        f"float32 matrix product: {best / 1e9:.1f} GFLOP/s (slowest of {len(products)}: {min(products) / 1e9:.1f})"
    )
    print(f"\n{'':<10}{'dtype':<10}{'micro-batch':>12}{'first s':>9}{'step s':>9}{'tokens/s':>10}"
          f"{'GFLOP/s':>9}{'of product':>12}")  # fmt: skip
    for row in rows:
        print(f"{row['mode']:<10}{row['dtype']:<10}{row['micro_batch']:>12}{row['warm_up_s']:>9.2f}"
              f"{row['step_s']:>9.3f}{row['tokens_per_s']:>10,.0f}{row['flops'] / 1e9:>9.1f}{row['flops'] / best:>12.3f}"
              f"{'' if row['like_for_like'] else '  *'}")  # fmt: skip
    if not all(row["like_for_like"] for row in rows):
        print("* bfloat16 over a float32 product: not like for like")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="compute threads (all cores)")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="steps timed for each row")
    parser.add_argument("--product-seconds", type=float, default=1.0, help="of each timing of the product")
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    config = TransformerConfig(
        depth=arguments.depth, vocab_size=arguments.vocab_size, context=arguments.context
    )
    products = [fastest_product(arguments.product_seconds) for _ in range(2)]
    rows = []
    for dtype in arguments.dtypes:
        for mode in arguments.modes:
            for micro_batch in (4, 16):
                rows.append(
                    measure(config, compiled=mode == "compiled", dtype=dtype, micro_batch=micro_batch,
                            steps=arguments.steps)
                )  # fmt: skip
                products.append(fastest_product(arguments.product_seconds))
    products.append(fastest_product(arguments.product_seconds))
    for row in rows:
        row["of_product"] = row["flops"] / max(products)
    show(config, rows, products)
    report = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "model": config.model_dump(),
        "parameters": n_parameters(config),
        "flops_per_token": flops_per_token(config),
        "sequences": SEQUENCES,
        "products": products,
        "product": max(products),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
