"""A rate that falls against one that stays, each at its best peak, for the same number of steps.

A small transformer on the bytes of Python's language reference; held-out bits per byte after 160 steps of AdamW, two seeds.
"""

from statistics import mean

from claim import FAILS, HOLDS, PARTLY, canvas, conclude, train

STEPS, SEEDS = 160, (0, 1)
RATES = (4e-3, 8e-3, 1.6e-2)
SCHEDULES = {"constant": ("optim.schedule=constant",), "linear to zero": ("optim.schedule=linear",),
             "cosine to zero": ("optim.schedule=cosine",)}  # fmt: skip


def main() -> None:
    """Every schedule at every rate."""
    reached = {
        name: {lr: [train("python-docs", STEPS, *settings, f"optim.lr={lr}", "optim.optimizer=adamw", "train.evaluations=1",
                          seed=seed).metrics["bits_per_byte"] for seed in SEEDS] for lr in RATES}
        for name, settings in SCHEDULES.items()
    }  # fmt: skip
    rows = [(name, *(mean(values) for values in of.values())) for name, of in reached.items()]
    best = {name: min(of, key=lambda lr, of=of: mean(of[lr])) for name, of in reached.items()}
    at_best = {name: reached[name][best[name]] for name in reached}
    figure, (axes,) = canvas(1)
    for name, of in reached.items():
        axes.plot(list(of), [mean(values) for values in of.values()], "o-", label=name)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="held-out bits per byte")
    axes.legend(fontsize=8)
    gains = [c - f for c, f in zip(at_best["constant"], at_best["linear to zero"], strict=True)]
    conclude(
        "A decaying schedule reaches a lower loss than a constant rate.",
        HOLDS if min(gains) > 0.01 else PARTLY if mean(gains) > 0 else FAILS,
        f"Each at its best peak, linear decay reaches {mean(at_best['linear to zero']):.3f} bits per byte (at {best['linear to zero']:g}) "
        f"and the constant rate {mean(at_best['constant']):.3f} (at {best['constant']:g}): {mean(gains):.3f} lower, "
        f"{' and '.join(f'{gain:.3f}' for gain in gains)} with the two seeds.",
        ("schedule", *(f"{lr:g}" for lr in RATES)), rows, figure, seeds=reached,
    )  # fmt: skip


if __name__ == "__main__":
    main()
