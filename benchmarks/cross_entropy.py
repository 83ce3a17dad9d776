"""Chunked cross-entropy at a vocabulary of 32,768: memory, time and gradient against full logits and torch's own.

    python benchmarks/cross_entropy.py [--repeats 5]

Prints a table and writes ``benchmarks/results/cross_entropy.json``. Memory is the allocator's peak over the
inputs, gradients included; time is forward and backward in CPU seconds, the least of several, interleaved.
The gradient's error is relative to full logits in float64. "torch" is ``linear_cross_entropy`` with its
chunking options (without them it makes full logits), where torch has them (2.13).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from steepest.losses import chunked_cross_entropy

RESULTS = Path(__file__).parent / "results" / "cross_entropy.json"
VOCABULARY = 32_768
SHAPES = ((2048, 256), (4096, 512))  # tokens, width
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def full(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    out: Tensor = F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    return out


def ways() -> dict[str, Loss]:
    found: dict[str, Loss] = {"full": full, "steepest": chunked_cross_entropy}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["torch"] = torch_chunked
    return found


def step(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(loss(hidden, weight, targets) / len(targets), (hidden, weight))  # type: ignore[return-value]


def peak_bytes(work: Callable[[], Any]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def compare(tokens: int, width: int, repeats: int) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, width, generator=generator) * width**-0.5).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    part = slice(0, 512)  # enough tokens to judge a gradient by, and few enough for float64
    truth = step(full, hidden[part].detach().double().requires_grad_(),
                 weight.detach().double().requires_grad_(), targets[part])  # fmt: skip
    table: dict[str, dict[str, float]] = {}
    for name, loss in ways().items():
        found = step(loss, hidden[part].detach().requires_grad_(), weight, targets[part])
        errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, truth, strict=True)]
        del found
        peak = peak_bytes(lambda loss=loss: step(loss, hidden, weight, targets))  # type: ignore[misc]
        table[name] = {"bytes": peak, "gradient_error": max(errors), "seconds": float("inf")}
    for _ in range(repeats):
        for name, loss in ways().items():
            began = time.process_time()
            step(loss, hidden, weight, targets)
            table[name]["seconds"] = min(table[name]["seconds"], time.process_time() - began)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "torch": torch.__version__,
        "vocabulary": VOCABULARY, "shapes": {},
    }  # fmt: skip
    for tokens, width in SHAPES:
        table = compare(tokens, width, asked.repeats)
        result["shapes"][f"{tokens} x {width}"] = table
        print(f"{tokens} tokens, width {width}")
        for name, row in table.items():
            print(f"  {name:10} {row['bytes'] / 2**20:8.1f} MiB {row['seconds']:7.3f} s   "
                  f"gradient error {row['gradient_error']:.1e}")  # fmt: skip
        ours = table["steepest"]
        aims = {
            "memory over full logits, at most 0.12": (ours["bytes"] / table["full"]["bytes"], 0.12),
            "time over full logits, at most 1.0": (ours["seconds"] / table["full"]["seconds"], 1.0),
            "gradient error, at most 1e-6": (ours["gradient_error"], 1e-6),
        }
        if "torch" in table:
            aims["time over torch's, at most 0.7"] = ours["seconds"] / table["torch"]["seconds"], 0.7
        for aim, (value, most) in aims.items():
            print(f"  {aim}: {value:.3g}, {'met' if value <= most else 'missed'}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
