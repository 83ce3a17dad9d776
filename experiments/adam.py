"""Adam against SGD over a grid of learning rates: which needs less tuning, and which gets further.

A small transformer on the bytes of Python's language reference, 240 steps at every rate; neighbours differ by a factor of 4.
"""

import math

from claim import FAILS, HOLDS, PARTLY, canvas, conclude, train

from steepest.errors import TrainingError

STEPS, NEAR = 240, 0.15  # bits per byte from the best that still count as good
GRIDS = {"adamw": [1e-4 * 4**i for i in range(6)], "sgd": [1e-2 * 4**i for i in range(6)]}


def reach(optimizer: str, lr: float) -> float:
    """Held-out bits per byte; infinite where training broke."""
    try:
        run = train(
            "python-docs", STEPS, f"optim.optimizer={optimizer}", f"optim.lr={lr}", "train.evaluations=1"
        )
    except TrainingError:
        return math.inf
    value = run.metrics["bits_per_byte"]
    return value if math.isfinite(value) else math.inf


def main() -> None:
    """The grid, how wide the good part is, and how good the default is."""
    found = {name: {lr: reach(name, lr) for lr in grid} for name, grid in GRIDS.items()}
    best = {name: min(of.values()) for name, of in found.items()}
    wide = {name: sum(value <= best[name] + NEAR for value in of.values()) for name, of in found.items()}
    usual = {"adamw": found["adamw"][min(GRIDS["adamw"], key=lambda lr: abs(math.log(lr / 1e-3)))],
             "sgd": found["sgd"][min(GRIDS["sgd"], key=lambda lr: abs(math.log(lr / 1e-1)))]}  # fmt: skip
    rows = [(name, f"{lr:.2g}", value) for name, of in found.items() for lr, value in of.items()]
    figure, (axes,) = canvas(1)
    for name, of in found.items():
        middle = min(of, key=of.__getitem__)
        axes.plot([lr / middle for lr in of], list(of.values()), "o-", label=f"{name}, best at {middle:.2g}")
    axes.set(xscale="log", xlabel="learning rate over the best", ylabel="held-out bits per byte")
    axes.legend(fontsize=8)
    less = wide["adamw"] > wide["sgd"] or (
        wide["adamw"] == wide["sgd"] and usual["adamw"] - best["adamw"] < usual["sgd"] - best["sgd"]
    )
    further = best["adamw"] < best["sgd"] - 0.02
    conclude(
        "Adam gets further than SGD with less tuning.",
        HOLDS if less and further else PARTLY if less or further else FAILS,
        f"At its best rate AdamW reaches {best['adamw']:.3f} bits per byte, SGD with momentum {best['sgd']:.3f}. Within "
        f"{NEAR} of their best lie {wide['adamw']} of {len(GRIDS['adamw'])} rates of AdamW and {wide['sgd']} of SGD (a factor of "
        f"4 apart). The usual first guess (1e-3 and 0.1) gives {usual['adamw']:.3f} and {usual['sgd']:.3f}.",
        ("optimiser", "rate", "held-out bits per byte"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
