"""A rate that falls against one that stays, each at its best peak, for the same number of steps.

A small transformer on the bytes of Python's language reference, AdamW, 160 steps: every schedule at every rate with one
seed, then each at its best rate with two more seeds.
"""

from statistics import mean

from claim import FAILS, HOLDS, PARTLY, canvas, conclude, train

STEPS, SEEDS = 160, (1, 2)
RATES = (4e-3, 8e-3, 1.6e-2)
SCHEDULES = {"constant": "constant", "linear to zero": "linear", "cosine to zero": "cosine"}


def reach(schedule: str, lr: float, seed: int = 0) -> float:
    """Held-out bits per byte."""
    run = train("python-docs", STEPS, f"optim.schedule={schedule}", f"optim.lr={lr}", "optim.optimizer=adamw",
                "train.evaluations=1", seed=seed)  # fmt: skip
    return float(run.metrics["bits_per_byte"])


def main() -> None:
    """The grid, then the seeds."""
    grid = {name: {lr: reach(schedule, lr) for lr in RATES} for name, schedule in SCHEDULES.items()}
    best = {name: min(of, key=of.__getitem__) for name, of in grid.items()}
    pair = ("constant", "linear to zero")
    seeds = {
        name: [grid[name][best[name]], *(reach(SCHEDULES[name], best[name], seed) for seed in SEEDS)]
        for name in pair
    }
    rows = [(name, *of.values(), mean(seeds[name]) if name in pair else "") for name, of in grid.items()]
    figure, (axes,) = canvas(1)
    for name, of in grid.items():
        axes.plot(list(of), list(of.values()), "o-", label=name)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="held-out bits per byte")
    axes.set_xticks(RATES, [f"{lr:g}" for lr in RATES])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    gains = [c - f for c, f in zip(seeds["constant"], seeds["linear to zero"], strict=True)]
    conclude(
        "A decaying schedule reaches a lower loss than a constant rate.",
        HOLDS if min(gains) > 0.01 else PARTLY if mean(gains) > 0 else FAILS,
        f"Each at its best peak, linear decay reaches {mean(seeds['linear to zero']):.3f} bits per byte (at {best['linear to zero']:g}) "
        f"and the constant rate {mean(seeds['constant']):.3f} (at {best['constant']:g}): {mean(gains):.3f} lower in the mean of three seeds, "
        f"{', '.join(f'{gain:.3f}' for gain in gains)} one by one.",
        ("schedule", *(f"seed 0 at {lr:g}" for lr in RATES), "three seeds at the best"), rows, figure, seeds=seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
