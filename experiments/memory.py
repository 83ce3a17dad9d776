"""Memory of training against memory of a forward pass, as the depth grows: a table and a picture.

    python experiments/memory.py [--depths 2,8,32,64] [--png FILE]

The statements put to the test: inference needs about what the most demanding layer needs; the backward pass
needs about twice a forward pass; recomputing or reversing layers makes that true at any depth. Every figure is a
predicted peak of live bytes, equal to the allocator's own count (benchmarks/memory.py); nothing is allocated.
Writes ``experiments/results/memory.json``.

    forward     a forward pass without gradients, over all sequences
    over        peak of a training step with SGD (no optimiser state) over that peak
    demanding   what inference takes above the weights, over the most demanding block alone
"""

import argparse
import json
from pathlib import Path
from typing import Any

from steepest.config import build
from steepest.memory.predict import Prediction
from steepest.train.footprint import predict_inference, predict_training
from steepest.train.run import RunConfig

RESULTS = Path(__file__).parent / "results" / "memory.json"
WAYS = ("stored", "recomputed", "reversible")
# Sequences and tokens in each: few, so that weights dominate; many, so that activations do.
SITUATIONS = {"weights dominate": (1, 16), "activations dominate": (4, 256)}


def config(depth: int, way: str, sequences: int, context: int, width: int = 256) -> RunConfig:
    """The run whose memory is asked for."""
    coupling = "reversible" if way == "reversible" else "residual"
    train: dict[str, Any] = {"steps": 1, "device": "cpu", "dtype": "float32", "micro_batch": sequences}
    if way == "recomputed":
        train |= {"backward": "recompute", "recompute_blocks": depth}
    model = {"depth": depth, "width": width, "vocab_size": 1024, "context": context, "coupling": coupling}
    optim = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False}
    batches = {"batch_tokens": sequences * context}
    return build(RunConfig, {"model": model, "train": train, "optim": optim, "batches": batches})


def main() -> None:
    """Print the table, keep it, draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", default="2,4,8,16,32,64")
    parser.add_argument("--png", type=Path, default=RESULTS.with_suffix(".png"))
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    rows: list[dict[str, Any]] = []
    for situation, (sequences, context) in SITUATIONS.items():
        print(
            f"\n{situation}: {sequences} sequences of {context} tokens, width 256 (MB; training over forward)"
        )
        print(f"{'depth':>6} {'forward':>9} {'demanding':>10}" + "".join(f"{way:>22}" for way in WAYS))
        for depth in depths:
            steps = {way: predict_training(config(depth, way, sequences, context)) for way in WAYS}
            forward = predict_inference(config(depth, "stored", sequences, context), sequences=sequences)
            rows.append(row(situation, depth, forward, steps))
            print(line(rows[-1]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, arguments.png)
    print(f"\nwritten: {RESULTS}, {arguments.png}")


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


def line(row: dict[str, Any]) -> str:
    """The same as text."""
    cells = "".join(f"{row['steps'][way] / 1e6:>13,.1f} ({row['over_forward'][way]:5.2f})" for way in WAYS)
    return f"{row['depth']:>6} {row['forward'] / 1e6:>9,.1f} {row['inference_over_layer']:>10.2f}  {cells}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Training over forward against depth, a panel a situation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, situation in enumerate(SITUATIONS, start=1):
        axes = figure.add_subplot(1, 2, place)
        chosen = [one for one in rows if one["situation"] == situation]
        for way in WAYS:
            axes.plot(
                [one["depth"] for one in chosen],
                [one["over_forward"][way] for one in chosen],
                "o-",
                label=way,
            )
        axes.axhline(2, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=situation, xlabel="blocks", ylabel="training over forward", xscale="log")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
