"""Reversible coupling beside the residual trunk: bytes held by depth, bits of the gradient, time, loss reached.

    python benchmarks/reversible.py [--only held,gradient,time,loss] [--text FILE] [--repeats 9] [--steps 600]

Four tables, all kept in ``benchmarks/results/reversible.json``; a part left out by ``--only`` keeps its figures.

held      bytes alive at the end of the forward pass of the trunk, by depth and way of differentiating
gradient  rebuilt against stored activations at depth 64: equal bits, or the relative difference
time      seconds of forward, loss and backward over those of the residual trunk with everything stored, interleaved
          in one process, the least of several; CPU seconds, so that a neighbour's work counts less
loss      held-out nats after equal steps over three seeds, same weights, batches and rates; text that ships
          with Python unless ``--text`` is given
"""

import argparse
import gc
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from steepest.losses import chunked_cross_entropy
from steepest.model import Transformer, TransformerConfig, VocabularyHead
from steepest.optim import clip_grad_norm_

RESULTS = Path(__file__).parent / "results" / "reversible.json"
WAYS = {  # name -> coupling, backward
    "stored": ("residual", "store"),
    "recomputed": ("residual", "recompute"),
    "reversible": ("reversible", "invert"),
    "reversible stored": ("reversible", "store"),
}
DEPTHS = (2, 8, 32, 64)
SHAPES = {
    "depth 8, width 256": (8, 256, 256, 4),
    "depth 4, width 512": (4, 512, 512, 4),
}  # ..., context, rows


def make(
    way: str, depth: int, width: int, context: int, vocabulary: int = 1024, **fields: Any
) -> Transformer:
    coupling, backward = WAYS[way]
    config = TransformerConfig(
        vocab_size=vocabulary, depth=depth, width=width, context=context, coupling=coupling, **fields
    )
    return Transformer(config, torch.Generator().manual_seed(0), backward=backward)  # type: ignore[arg-type]


def jitter(trunk: Transformer) -> Transformer:
    """Projections that are not zero, as after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return trunk


def held() -> dict[str, dict[str, int]]:
    """4 x 256 tokens, width 256, float32."""
    ids = torch.zeros(4, 256, dtype=torch.int64)
    table: dict[str, dict[str, int]] = {}
    for way, depth in itertools.product(WAYS, DEPTHS):
        trunk = make(way, depth, 256, 256)
        trunk(ids[:, :8]).sum().backward()
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            out = trunk(ids)
        events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
        table.setdefault(way, {})[str(depth)] = sum(e.nbytes() for e in events if e.name() == "[memory]")
        del out
    return table


def gradient() -> list[dict[str, Any]]:
    rows = []
    for dropout, autocast in itertools.product((0.0, 0.1), (False, True)):
        found: dict[str, Tensor] = {}
        for way in ("reversible", "reversible stored"):
            trunk = jitter(make(way, 64, 128, 64, dropout=dropout))
            ids = torch.randint(0, 1024, (4, 64), generator=torch.Generator().manual_seed(2))
            torch.manual_seed(3)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = trunk(ids).float().square().mean()
            loss.backward()
            found[way] = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
        rebuilt, stored = found.values()
        rows.append({
            "depth": 64, "dropout": dropout, "dtype": "bfloat16 autocast" if autocast else "float32",
            "bit_equal": torch.equal(rebuilt, stored),
            "relative_difference": ((rebuilt - stored).norm() / stored.norm()).item(),
        })  # fmt: skip
    return rows


def seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def times(repeats: int) -> dict[str, dict[str, float]]:
    table = {}
    for (name, (depth, width, context, rows)), autocast in itertools.product(SHAPES.items(), (False, True)):
        ids = torch.randint(0, 1024, (rows, context), generator=torch.Generator().manual_seed(2))
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        trunks = {way: jitter(make(way, depth, width, context, tie_embeddings=True)) for way in WAYS}

        def work(trunk: Transformer, ids: Tensor = ids, autocast: bool = autocast) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = trunk(ids).flatten(0, 1)
                loss = chunked_cross_entropy(hidden, trunk.embedding.weight, ids.flatten()) / ids.numel()
            loss.backward()  # type: ignore[no-untyped-call]
            trunk.zero_grad()

        for _ in range(repeats):
            for way, trunk in trunks.items():
                taken[way].append(seconds(lambda trunk=trunk: work(trunk)))  # type: ignore[misc]
        least = {way: min(values) for way, values in taken.items()}
        label = f"{name}, {'bfloat16 autocast' if autocast else 'float32'}"
        table[label] = {f"{way}_s": value for way, value in least.items()}
        table[label] |= {f"{way} / stored": value / least["stored"] for way, value in least.items()}
    return table


def python_docs() -> str:
    from pydoc_data import topics  # the language reference, as text

    return "\n\n".join(text for _, text in sorted(topics.topics.items()))


def loss(text: str, steps: int) -> dict[str, Any]:
    """Depth 6, width 128, context 128, 8 sequences a step; AdamW, cosine from 3e-3, clipped at 1."""
    symbols = sorted(set(text))
    index = {symbol: number for number, symbol in enumerate(symbols)}
    ids = torch.tensor([index[symbol] for symbol in text])
    cut = int(0.9 * len(ids))
    reached: dict[str, list[float]] = {}
    for way, seed in itertools.product(("stored", "reversible"), range(3)):
        reached.setdefault(way, []).append(train(way, seed, steps, ids[:cut], ids[cut:], len(symbols)))
        print(f"  {way}, seed {seed}: {reached[way][-1]:.4f}", flush=True)
    means = {way: statistics.mean(values) for way, values in reached.items()}
    differences = [b - a for a, b in zip(reached["stored"], reached["reversible"], strict=True)]
    return {
        "characters": len(ids), "vocabulary": len(symbols), "steps": steps, "nats": reached, "mean": means,
        "reversible_less_residual": differences, "seed_deviation": statistics.stdev(reached["stored"]),
    }  # fmt: skip


def train(way: str, seed: int, steps: int, text: Tensor, held_out: Tensor, vocabulary: int) -> float:
    context, rows, peak = 128, 8, 3e-3
    trunk = Transformer(make(way, 6, 128, context, vocabulary).config, torch.Generator().manual_seed(seed))
    head = VocabularyHead(trunk)
    parameters = [*trunk.parameters(), *head.parameters()]
    matrices = [p for p in parameters if p.ndim == 2]
    gains = [p for p in parameters if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                peak * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-5
            )
        starts = torch.randint(len(text) - context, (rows,), generator=draws)
        window = torch.stack([text[start : start + context + 1] for start in starts])
        hidden = trunk(window[:, :-1]).flatten(0, 1)
        value = chunked_cross_entropy(hidden, head.weight, window[:, 1:].flatten()) / hidden.shape[0]
        value.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    windows = held_out[: len(held_out) // (context + 1) * (context + 1)].view(-1, context + 1)
    windows = windows[:: max(1, len(windows) // 320)]
    with torch.no_grad():
        sums = [
            F.cross_entropy(
                head(trunk(part[:, :-1])).flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
            ).item()
            for part in windows.split(32)
        ]
    return sum(sums) / windows[:, 1:].numel()


def show(result: dict[str, Any]) -> None:
    if "held" in result:
        print("bytes held" + "".join(f"{depth:>14}" for depth in DEPTHS))
        for way, row in result["held"].items():
            print(f"{way:18}" + "".join(f"{value:14,}" for value in row.values()))
        same = len(set(result["held"]["reversible"].values())) == 1
        print(f"reversible identical at every depth: {'met' if same else 'missed'}\n")
    for row in result.get("gradient", []):
        print(f"gradient, depth 64, dropout {row['dropout']}, {row['dtype']}: "
              f"{'equal bits' if row['bit_equal'] else row['relative_difference']}")  # fmt: skip
    for label, row in result.get("time", {}).items():
        ratios = ", ".join(f"{key} {value:.2f}" for key, value in row.items() if "/" in key)
        print(f"time, {label}: {ratios}")
        verdict = "met" if row["reversible / stored"] <= 1.40 else "missed"
        print(f"  reversible over stored, aim 1.40: {verdict}")
    if "loss" in result:
        table = result["loss"]
        for way, values in table["nats"].items():
            print(
                f"loss, {way:12}" + "".join(f"{v:9.4f}" for v in values) + f"   mean {table['mean'][way]:.4f}"
            )
        worst = statistics.mean(table["reversible_less_residual"])
        print(f"reversible less residual {worst:+.4f}, seed deviation {table['seed_deviation']:.4f}: "
              f"{'met' if worst <= table['seed_deviation'] else 'missed'}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="held,gradient,time,loss")
    parser.add_argument("--text", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=600)
    asked = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "held": held,
        "gradient": gradient,
        "time": lambda: times(asked.repeats),
        "loss": lambda: loss(asked.text.read_text() if asked.text else python_docs(), asked.steps),
    }
    for name in asked.only.split(","):
        found = parts[name]()
        show({name: found})
        result = (
            json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        )  # another part may have ended meanwhile
        result |= {name: found, "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
                   "torch": torch.__version__}  # fmt: skip
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
