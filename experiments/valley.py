"""Gradient descent in a curved valley: a rate that is too small, right, too large.

    f(x, y) = (1 - x)^2 + 20 (y - x^2)^2        Rosenbrock's function: down into the valley at once, then along it

Every rate of a fine grid starts at the same point; steps until f < 1e-3 are counted, 6,000 at most.
"""

import math

import torch
from claim import COLOURS, HOLDS, PARTLY, canvas, conclude

LIMIT, GOAL = 6_000, 1e-3


def height(x: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's function of the last dimension."""
    return (1 - x[..., 0]) ** 2 + 20 * (x[..., 1] - x[..., 0] ** 2) ** 2


def descend(rates: list[float]) -> tuple[list[int | None], torch.Tensor, torch.Tensor]:
    """For every rate, side by side: steps to the goal (``None`` if never), the path, and the heights along it."""
    lr = torch.tensor(rates, dtype=torch.float64)[:, None]
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(len(rates), 1)
    path, heights = [x], [height(x)]
    for _ in range(LIMIT):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(height(x).sum(), x)
        x = (x - lr * gradient).detach().clamp(-1e30, 1e30)  # what diverges stays a number
        path.append(x)
        heights.append(height(x))
    walked = torch.stack(heights)
    below = walked < GOAL
    arrived = [int(column.int().argmax()) if column.any() else None for column in below.T]
    return arrived, torch.stack(path), walked


def main() -> None:
    """Scan the rates, then look at three of them."""
    rates = [1e-4 * 2 ** (i / 2) for i in range(17)]
    scanned = dict(zip(rates, descend(rates)[0], strict=True))
    arrived = {lr: steps for lr, steps in scanned.items() if steps is not None}
    right = min(arrived, key=arrived.__getitem__)
    chosen = {
        "too small": right / 30,
        "right": right,
        "a little too large": 2 * right,
        "far too large": 4 * right,
    }
    reached, paths, heights = descend(list(chosen.values()))
    steps = dict(zip(chosen, reached, strict=True))
    ends = [h.item() if n is None else GOAL for n, h in zip(reached, heights[-1], strict=True)]
    rows = [
        (name, chosen[name], steps[name] or f"not in {LIMIT:,}", f"{end:.1e}")
        for name, end in zip(chosen, ends, strict=True)
    ]

    figure, (map_, curve) = canvas(2)
    grid_x, grid_y = torch.meshgrid(
        torch.linspace(-1.7, 1.7, 200), torch.linspace(-0.8, 2.2, 200), indexing="xy"
    )
    map_.contourf(
        grid_x,
        grid_y,
        height(torch.stack([grid_x, grid_y], dim=-1)).log(),
        levels=24,
        cmap="Greys",
        alpha=0.5,
    )
    for i, name in enumerate(("too small", "right", "a little too large")):
        walked = paths[:400, i].T
        map_.plot(*walked, ".-", markersize=3, linewidth=0.8, label=f"{name}, {chosen[name]:.2g}")
    map_.set(xlim=(-1.7, 1.7), ylim=(-0.8, 2.2), title="first 400 steps")
    map_.legend(fontsize=8, loc="lower right")
    curve.plot(list(arrived), list(arrived.values()), "o-")
    curve.axvspan(max(arrived) * 1.01, rates[-1], alpha=0.15, color=COLOURS[1])
    curve.text(max(arrived) * 1.2, min(arrived.values()) * 2, "never arrives", fontsize=8)
    curve.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel=f"steps until f < {GOAL:g}",
        title="every rate",
    )
    slow, worse = (
        steps["too small"],
        [steps[name] is None for name in ("a little too large", "far too large")],
    )
    crawls = slow is None or slow > 10 * arrived[right]
    conclude(
        "Gradient descent with too small a rate crawls, with the right one arrives, with too large a one bounces or diverges.",
        HOLDS if crawls and all(worse) and heights[-1, 3] > 1e6 else PARTLY,
        f"The right rate, {right:.2g}, arrives in {arrived[right]:,} steps; a thirtieth of it needs "
        f"{f'{slow:,}' if slow else f'more than {LIMIT:,}'}; above {max(arrived):.2g} no rate arrives. The cliff is "
        f"close: the best rate is only {math.sqrt(2):.1f} times below the first that fails.",
        ("rate is", "rate", "steps to arrive", "height at the end"), rows, figure,
        scan={f"{lr:.4g}": steps for lr, steps in scanned.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
