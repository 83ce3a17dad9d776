"""Bigger models are better: loss against parameters, and against tokens, as in Kaplan et al. (2001.08361), small.

    L(N, D) = E + A / N^a + B / D^b        N: matrices and head; D: tokens

Five widths of a two-block transformer read the same tokens, and one width reads fewer; AdamW, each at the rate of the rule
for its width. The law is fitted to all points; intervals of the exponents from 40 refits with residuals resampled.
"""

from itertools import pairwise

import numpy as np
from claim import COLOURS, FAILS, HOLDS, PARTLY, canvas, conclude, train
from scipy.optimize import least_squares

WIDTHS, STEPS, SHORTER = (16, 32, 64, 96, 128), 160, (30, 60, 100)
SEEDS, TOKENS = (0, 1), 512


def reach(width: int, steps: int, seed: int) -> tuple[float, float, float]:
    """Parameters, tokens, and held-out nats per byte."""
    run = train("python-docs", steps, f"model.width={width}", "model.head_dim=16", "optim.optimizer=adamw",
                "train.evaluations=0", seed=seed)  # fmt: skip
    size = sum(p.numel() for p in run.objective.parameters() if p.ndim > 1)
    return size, TOKENS * steps, run.metrics["loss"]


def fit(points: np.ndarray) -> np.ndarray:
    """Logarithms of E, A, B and the two exponents, by least squares of log loss."""

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.log(law(x, points[:, 0], points[:, 1])) - np.log(points[:, 2])

    starts = [
        [np.log(e), np.log(a), np.log(b), p, p]
        for e in (0.3, 1.0)
        for a in (10.0, 100.0)
        for b in (100.0, 1000.0)
        for p in (0.3, 0.6)
    ]
    fits = [
        least_squares(residuals, start, bounds=([-6, -5, -5, 0.02, 0.02], [1, 15, 15, 2, 2]))
        for start in starts
    ]
    return min(fits, key=lambda one: one.cost).x


def law(x: np.ndarray, size: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The loss."""
    return np.exp(x[0]) + np.exp(x[1]) / size ** x[3] + np.exp(x[2]) / tokens ** x[4]


def main() -> None:
    """Train, fit, refit, draw."""
    runs = [(width, STEPS, seed) for width in WIDTHS for seed in SEEDS] + [
        (64, steps, 0) for steps in SHORTER
    ]
    points = np.array([reach(*run) for run in runs])
    x = fit(points)
    left = np.log(points[:, 2]) - np.log(law(x, points[:, 0], points[:, 1]))
    dice = np.random.default_rng(0)
    again = []
    for _ in range(40):
        other = points.copy()
        other[:, 2] = law(x, points[:, 0], points[:, 1]) * np.exp(
            dice.choice(left, len(left)) * (len(left) / (len(left) - 5)) ** 0.5
        )
        again.append(fit(other))
    ends = np.quantile(np.array(again), (0.1, 0.9), axis=0)
    means = {
        width: np.mean([p[2] for run, p in zip(runs, points, strict=True) if run[:2] == (width, STEPS)])
        for width in WIDTHS
    }
    sizes = {width: points[runs.index((width, STEPS, 0))][0] for width in WIDTHS}
    rows = [
        (f"width {width}", f"{sizes[width]:,.0f}", STEPS * TOKENS, float(means[width])) for width in WIDTHS
    ]
    rows += [("width 64", f"{sizes[64]:,.0f}", steps * TOKENS,
              float(np.mean([p[2] for run, p in zip(runs, points, strict=True) if run[:2] == (64, steps)]))) for steps in SHORTER]  # fmt: skip
    figure, (by_size, by_tokens) = canvas(2)
    full = np.array([run[1] == STEPS for run in runs])
    n = np.geomspace(min(sizes.values()) / 1.3, max(sizes.values()) * 1.3, 60)
    by_size.plot(points[full, 0], points[full, 2], "o")
    by_size.plot(n, law(x, n, np.full_like(n, float(STEPS * TOKENS))), "-", color=COLOURS[0])
    by_size.set(
        xscale="log",
        yscale="log",
        xlabel="parameters",
        ylabel="held-out nats per byte",
        title=f"{STEPS * TOKENS:,} tokens",
    )
    one = np.array([run[0] == 64 for run in runs])
    d = np.geomspace(12_000, 110_000, 60)
    by_tokens.plot(points[one, 1], points[one, 2], "o", color=COLOURS[1])
    by_tokens.plot(d, law(x, np.full_like(d, sizes[64]), d), "-", color=COLOURS[1])
    by_tokens.set(xscale="log", yscale="log", xlabel="tokens", title=f"{sizes[64]:,.0f} parameters")
    losses = [means[width] for width in WIDTHS]
    falling = all(a > b for a, b in pairwise(losses))
    conclude(
        "Bigger models are better, along a power law.",
        HOLDS if falling and np.abs(left).max() < 0.05 else PARTLY if losses[-1] < losses[0] else FAILS,
        f"From {sizes[16]:,.0f} to {sizes[128]:,.0f} parameters the loss falls from {losses[0]:.3f} to {losses[-1]:.3f} nats per byte"
        f"{', at every step' if falling else ', not at every step'}. Exponents: {x[3]:.2f} in parameters (80% interval {ends[0, 3]:.2f} to {ends[1, 3]:.2f}), "
        f"{x[4]:.2f} in tokens ({ends[0, 4]:.2f} to {ends[1, 4]:.2f}); the largest residual is {np.abs(left).max():.1%} of the loss. At fixed time a larger model "
        f"is not better without end: it reads fewer tokens.",
        ("model", "parameters", "tokens", "held-out nats per byte"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
