"""What is said of memory, measured: one layer, whole models as the depth grows, recomputed and reversible.

    python experiments/memory.py [--depths 2,4,8,16,32,64] [--png FILE]

The statements put to the test:

    1   a forward pass needs about what its most demanding layer needs, at any depth
    2   training needs about twice a forward pass
    3   recomputing or reversing layers makes 2 true at any depth

Every figure is a predicted peak of live bytes, equal to the allocator's own count (benchmarks/memory.py); nothing
is allocated. Prints the tables and what follows from them; writes ``experiments/results/memory.json`` and a picture.

    forward     peak of a forward pass without gradients, over all sequences
    demanding   what that takes above the weights, over the most demanding layer (attention or mlp) by itself
    stored ...  peak of a training step with SGD (no optimiser state), and in brackets that over forward
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steepest.config import build
from steepest.memory import Prediction, predict
from steepest.model import Transformer, TransformerConfig
from steepest.train.footprint import predict_inference, predict_training
from steepest.train.run import RunConfig

RESULTS = Path(__file__).parent / "results" / "memory.json"
WIDTH, VOCABULARY = 256, 1024
WAYS = ("stored", "recomputed", "reversible", "stored, AdamW")
# Sequences and tokens in each: few, so that weights dominate; many, so that activations do.
SITUATIONS = {"weights dominate": (1, 16), "activations dominate": (4, 256)}


def one_layer(width: int, sequences: int, context: int) -> dict[str, tuple[int, int]]:
    """Peak above the weights of one layer by itself, its input included: forward, and forward with backward."""
    shape = TransformerConfig(depth=1, width=width, context=context, vocab_size=VOCABULARY)
    trunk = Transformer(shape)
    block, rotation = trunk.blocks[0], trunk.rotation(torch.arange(context))
    x_BTD, dy_BTD = (torch.empty(sequences, context, width) for _ in range(2))

    def above_weights(step: Callable[..., Any], *tensors: Tensor) -> int:
        found = predict(step, block, rotation, *tensors)
        return found.peak - found.worst.weights

    layers: dict[str, Callable[..., Tensor]] = {
        "attention": lambda block, x, turn: block.attend(x, turn),
        "mlp": lambda block, x, turn: block.feed(x),
        "block": lambda block, x, turn: block(x, turn),
    }
    peaks = {}
    for name, layer in layers.items():

        def forward(block: Any, turn: Any, x: Tensor, layer: Any = layer) -> None:
            with torch.no_grad():
                layer(block, x, turn)

        def both(block: Any, turn: Any, x: Tensor, dy: Tensor, layer: Any = layer) -> None:
            torch.autograd.grad(
                layer(block, x, turn), [x, *block.parameters()], dy, allow_unused=True
            )  # its two halves share no weights

        train = above_weights(both, x_BTD.clone().requires_grad_(), dy_BTD)
        peaks[name] = above_weights(forward, x_BTD), train
    return peaks


def config(depth: int, way: str, sequences: int, context: int) -> RunConfig:
    """The run whose memory is asked for."""
    model = {"depth": depth, "width": WIDTH, "vocab_size": VOCABULARY, "context": context}
    train: dict[str, Any] = {"steps": 1, "device": "cpu", "dtype": "float32", "micro_batch": sequences}
    optim: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False}
    if way == "recomputed":
        train |= {"backward": "recompute", "recompute_blocks": depth}
    elif way == "reversible":
        model |= {"coupling": "reversible"}
    elif way == "stored, AdamW":
        optim = {"optimizer": "adamw"}
    batches = {"batch_tokens": sequences * context}
    return build(RunConfig, {"model": model, "train": train, "optim": optim, "batches": batches})


def main() -> None:
    """Print the tables, keep them, draw them, and say what follows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", default="2,4,8,16,32,64")
    parser.add_argument("--png", type=Path, default=RESULTS.with_suffix(".png"))
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    layers = {
        f"width {width}": {
            layer: train / forward for layer, (forward, train) in one_layer(width, 4, 256).items()
        }
        for width in (256, 512)
    }
    print("one layer, forward and backward over forward, above the weights (4 sequences of 256 tokens)")
    for name, ratios in layers.items():
        print(f"  {name}: " + ", ".join(f"{layer} {ratio:.2f}" for layer, ratio in ratios.items()))
    rows: list[dict[str, Any]] = []
    for situation, (sequences, context) in SITUATIONS.items():
        print(f"\n{situation}: {sequences} sequences of {context} tokens, width {WIDTH} (MB)")
        print(f"{'depth':>6} {'forward':>9} {'demanding':>10}" + "".join(f"{way:>18}" for way in WAYS))
        alone = one_layer(WIDTH, sequences, context)
        demanding = max(alone[layer][0] for layer in ("attention", "mlp"))
        for depth in depths:
            steps = {way: predict_training(config(depth, way, sequences, context)) for way in WAYS}
            forward = predict_inference(config(depth, "stored", sequences, context), sequences=sequences)
            rows.append(row(situation, depth, forward, demanding, steps))
            print(line(rows[-1]), flush=True)
    statements = conclude(layers, rows)
    print()
    for statement in statements:
        print(statement)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"layers": layers, "models": rows, "statements": statements}, indent=1) + "\n"
    )
    draw(rows, arguments.png)
    print(f"\nwritten: {RESULTS}, {arguments.png}")


def row(
    situation: str, depth: int, forward: Prediction, demanding: int, steps: dict[str, Prediction]
) -> dict[str, Any]:
    """Figures of one depth."""
    return {
        "situation": situation,
        "depth": depth,
        "forward": forward.peak,
        "inference_over_layer": (forward.peak - forward.steady) / demanding,
        "steps": {way: step.peak for way, step in steps.items()},
        "held": {way: step.held for way, step in steps.items()},
        "over_forward": {way: step.peak / forward.peak for way, step in steps.items()},
    }


def line(row: dict[str, Any]) -> str:
    """The same as text."""
    cells = "".join(f"{row['steps'][way] / 1e6:>10,.1f} ({row['over_forward'][way]:5.2f})" for way in WAYS)
    return f"{row['depth']:>6} {row['forward'] / 1e6:>9,.1f} {row['inference_over_layer']:>10.2f}{cells}"


def conclude(layers: dict[str, dict[str, float]], rows: list[dict[str, Any]]) -> list[str]:
    """The statements, with the range of what was found."""

    def span(situation: str, *ways: str) -> str:
        found = [one["over_forward"][way] for one in rows if one["situation"] == situation for way in ways]
        return f"{min(found):.2f} to {max(found):.2f}"

    weights, activations = SITUATIONS
    alone = [ratio for ratios in layers.values() for ratio in ratios.values()]
    over = [one["inference_over_layer"] for one in rows if one["situation"] == activations]
    return [
        f"inference over the most demanding layer: {min(over):.2f} to {max(over):.2f} over all depths",
        f"one layer, training over forward: {min(alone):.2f} to {max(alone):.2f}",
        f"training over forward where weights dominate: {span(weights, 'stored')}",
        f"training over forward where activations do: {span(activations, 'stored')}, growing with depth",
        f"the same, recomputed: {span(activations, 'recomputed')}; reversible: {span(activations, 'reversible')}",
        f"AdamW's state adds two weights' worth: {span(weights, WAYS[3])} where weights dominate",
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Training over forward against depth, a panel a situation, and what is held for the backward pass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = [(situation, "over_forward", "training over forward") for situation in SITUATIONS]
    panels.append(("activations dominate", "held", "MB held for the backward pass"))
    depths = sorted({one["depth"] for one in rows})
    for place, (situation, key, label) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 3, place)
        chosen = [one for one in rows if one["situation"] == situation]
        unit = 1e6 if key == "held" else 1.0
        for way in WAYS[:3] if key == "held" else WAYS:
            values = [one[key][way] / unit for one in chosen]
            style = "o:" if way == WAYS[3] else "o-"
            axes.plot([one["depth"] for one in chosen], values, style, label=way, markersize=4)
        if key == "held":
            axes.set_yscale("log")
        else:
            axes.axhline(2, color="grey", linewidth=0.8, linestyle="--")
            axes.set_ylim(bottom=0)
        axes.set(title=situation, xlabel="blocks", ylabel=label, xscale="log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
