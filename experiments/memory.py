"""What is said of memory, measured: one layer, whole models as the depth grows, recomputed and reversible.

The statements put to the test:

    1   a forward pass needs about what its most demanding layer needs, at any depth
    2   training needs about twice a forward pass
    3   recomputing or reversing layers makes 2 true at any depth

Every figure is a predicted peak of live bytes, equal to the allocator's own count (benchmarks/memory.py); nothing
is allocated.

    forward     peak of a forward pass without gradients, over all sequences
    demanding   what that takes above the weights, over the most demanding block alone
    stored ...  peak of a training step with SGD (no optimiser state), and in brackets that over forward
"""

from collections.abc import Callable
from typing import Any

import torch
from claim import FAILS, HOLDS, PARTLY, canvas, conclude
from torch import Tensor

from steepest.config import build
from steepest.memory import Prediction, predict
from steepest.model import Transformer, TransformerConfig
from steepest.train.footprint import predict_inference, predict_training
from steepest.train.run import RunConfig

DEPTHS = (2, 4, 8, 16, 32, 64)
WIDTH, VOCABULARY = 256, 1024
WAYS = ("stored", "recomputed", "reversible", "stored, AdamW")
# Sequences and tokens in each: few, so that weights dominate; many, so that activations do.
SITUATIONS = {"weights dominate": (1, 16), "activations dominate": (4, 256)}


def one_layer(width: int, sequences: int, context: int) -> dict[str, float]:
    """Forward and backward of one layer over its forward pass alone, both above the weights."""
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
    ratios = {}
    for name, layer in layers.items():

        def forward(block: Any, turn: Any, x: Tensor, layer: Any = layer) -> None:
            with torch.no_grad():
                layer(block, x, turn)

        def both(block: Any, turn: Any, x: Tensor, dy: Tensor, layer: Any = layer) -> None:
            torch.autograd.grad(
                layer(block, x, turn), [x, *block.parameters()], dy, allow_unused=True
            )  # its two halves share no weights

        train = above_weights(both, x_BTD.clone().requires_grad_(), dy_BTD)
        ratios[name] = train / above_weights(forward, x_BTD)
    return ratios


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
    """The table, the picture, the verdict."""
    layers = {f"width {width}": one_layer(width, 4, 256) for width in (256, 512)}
    found: list[dict[str, Any]] = []
    for situation, (sequences, context) in SITUATIONS.items():
        for depth in DEPTHS:
            steps = {way: predict_training(config(depth, way, sequences, context)) for way in WAYS}
            forward = predict_inference(config(depth, "stored", sequences, context), sequences=sequences)
            found.append(row(situation, depth, forward, steps))
    table = [(one["situation"], one["depth"], f"{one['forward'] / 1e6:.1f} MB", one["inference_over_layer"],
              *(one["over_forward"][way] for way in WAYS)) for one in found]  # fmt: skip
    alone = [ratio for ratios in layers.values() for ratio in ratios.values()]
    weights, activations = (
        {way: [one["over_forward"][way] for one in found if one["situation"] == situation] for way in WAYS}
        for situation in SITUATIONS
    )
    demanding = [one["inference_over_layer"] for one in found if one["situation"] == "activations dominate"]
    saved = activations["recomputed"] + activations["reversible"]
    first, second, third = max(demanding) < 1.5, max(activations["stored"]) < 2.5, max(saved) < 2.5
    conclude(
        "Inference needs what the most demanding layer needs; training needs about twice a forward pass.",
        HOLDS if first and second else PARTLY if first or third else FAILS,
        f"Above the weights, inference takes {span(demanding)} times the most demanding layer at every depth. One layer's training takes {span(alone)} times "
        f"its forward pass. Whole models: {span(weights['stored'])} times where weights dominate, but {span(activations['stored'])} where activations do, "
        f"growing with depth; AdamW's state makes the former {span(weights[WAYS[3]])}. Recomputed blocks take {span(activations['recomputed'])} and reversible "
        f"ones {span(activations['reversible'])}: they make the statement true.",
        ("situation", "blocks", "forward", "inference over layer", *(f"{way} over forward" for way in WAYS)),
        table, draw(found), layers=layers, models=found,
    )  # fmt: skip


def span(values: list[float]) -> str:
    """Least and greatest."""
    return f"{min(values):.2f} to {max(values):.2f}"


def row(situation: str, depth: int, forward: Prediction, steps: dict[str, Prediction]) -> dict[str, Any]:
    """Figures of one depth."""
    return {
        "situation": situation,
        "depth": depth,
        "forward": forward.peak,
        "inference_over_layer": (forward.peak - forward.steady) / max(forward.layer, forward.loss),
        "steps": {way: step.peak for way, step in steps.items()},
        "held": {way: step.held for way, step in steps.items()},
        "over_forward": {way: step.peak / forward.peak for way, step in steps.items()},
    }


def draw(rows: list[dict[str, Any]]) -> Any:
    """Training over forward against depth, a panel a situation, and what is held for the backward pass."""
    figure, all_axes = canvas(3)
    panels = [(situation, "over_forward", "training over forward") for situation in SITUATIONS]
    panels.append(("activations dominate", "held", "MB held for the backward pass"))
    for axes, (situation, key, label) in zip(all_axes, panels, strict=True):
        chosen = [one for one in rows if one["situation"] == situation]
        unit = 1e6 if key == "held" else 1.0
        for way in WAYS[:3] if key == "held" else WAYS:
            values = [one[key][way] / unit for one in chosen]
            axes.plot(DEPTHS, values, "o:" if way == WAYS[3] else "o-", label=way, markersize=4)
        if key == "held":
            axes.set_yscale("log")
        else:
            axes.axhline(2, color="grey", linewidth=0.8, linestyle="--")
            axes.set_ylim(bottom=0)
        axes.set(title=situation, xlabel="blocks", ylabel=label, xscale="log")
        axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
