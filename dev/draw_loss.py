"""Draw a run's loss against time: python dev/draw_loss.py runs/NAME docs/loss.png"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from steepest.runs import RunFolder


def main() -> None:
    """Training loss (smoothed) and held-out loss in bits per byte, with the learning rate below."""
    run = RunFolder(Path(sys.argv[1]))
    records = run.read_metrics()
    steps = [record for record in records if "loss" in record]
    held_out = [record for record in records if "evaluation" in record]
    # nats per token to bits per byte: the ratio is the tokenizer's, the same for both curves
    ratio = held_out[-1]["evaluation"]["bits_per_byte"] / held_out[-1]["evaluation"]["loss"]
    smooth, value = [], steps[0]["loss"]
    for record in steps:
        value += 0.05 * (record["loss"] - value)
        smooth.append(value * ratio)
    seconds = [record["seconds"] for record in steps]
    figure, (loss, rate) = plt.subplots(
        2, 1, figsize=(8, 4.2), sharex=True, height_ratios=(4, 1), constrained_layout=True
    )
    loss.plot(seconds, smooth, color="0.6", label="training text (smoothed)")
    loss.plot(
        [record["seconds"] for record in held_out],
        [record["evaluation"]["bits_per_byte"] for record in held_out],
        "o-", color="tab:blue", label="held-out text",
    )  # fmt: skip
    low = min(*smooth, *(record["evaluation"]["bits_per_byte"] for record in held_out))
    loss.set_ylim(low - 0.2, low + 3)
    loss.set_ylabel("bits per byte")
    loss.set_title(f"{run.name}: loss against time", loc="left")
    loss.legend(frameon=False)
    rate.plot(seconds, [record["lr"] for record in steps], color="tab:orange")
    rate.set_ylabel("rate")
    rate.set_ylim(0)
    rate.set_xlabel("seconds since the command began")
    for axes in (loss, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, math.ceil(seconds[-1] / 10) * 10)
    figure.savefig(sys.argv[2], dpi=130)


if __name__ == "__main__":
    main()
