"""Gradient descent in a curved valley: a rate that is too small, right, too large.

    f(x, y) = (1 - x)^2 + 20 (y - x^2)^2        Rosenbrock's function: down into the valley at once, then along it

Every rate of a fine grid starts at the same point; steps until f < 1e-3 are counted, 20,000 at most.
"""

import math

import torch
from claim import HOLDS, PARTLY, canvas, conclude

LIMIT, GOAL = 20_000, 1e-3


def height(x: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's function."""
    return (1 - x[0]) ** 2 + 20 * (x[1] - x[0] ** 2) ** 2


def descend(lr: float, limit: int = LIMIT) -> tuple[int | None, list[tuple[float, float]], float]:
    """Steps to the goal (``None`` if never), the path, and the last height."""
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=lr)
    path = [(x[0].item(), x[1].item())]
    for step in range(1, limit + 1):
        optimizer.zero_grad()
        f = height(x)
        f.backward()
        optimizer.step()
        path.append((x[0].item(), x[1].item()))
        if not math.isfinite(path[-1][0]) or abs(path[-1][0]) > 1e6:
            return None, path, math.inf
        if height(x).item() < GOAL:
            return step, path, height(x).item()
    return None, path, height(x).item()


def main() -> None:
    """Scan the rates, then look at three of them."""
    rates = [1e-4 * 2 ** (i / 2) for i in range(17)]
    scanned = {lr: descend(lr) for lr in rates}
    arrived = {lr: steps for lr, (steps, _, _) in scanned.items() if steps is not None}
    right = min(arrived, key=arrived.__getitem__)
    chosen = {
        "too small": right / 30,
        "right": right,
        "a little too large": 2 * right,
        "far too large": 4 * right,
    }
    found = {name: descend(lr) for name, lr in chosen.items()}
    rows = [
        (name, chosen[name], steps or f"not in {len(path) - 1:,}", f)
        for name, (steps, path, f) in found.items()
    ]

    figure, (map_, curve) = canvas(2)
    grid_x, grid_y = torch.meshgrid(
        torch.linspace(-1.7, 1.7, 200), torch.linspace(-0.8, 2.2, 200), indexing="xy"
    )
    map_.contourf(
        grid_x, grid_y, height(torch.stack([grid_x, grid_y])).log(), levels=24, cmap="Greys", alpha=0.5
    )
    for name in ("too small", "right", "a little too large"):
        path = found[name][1][:400]
        map_.plot(
            *zip(*path, strict=True), ".-", markersize=3, linewidth=0.8, label=f"{name}, {chosen[name]:.2g}"
        )
    map_.set(xlim=(-1.7, 1.7), ylim=(-0.8, 2.2), title="first 400 steps")
    map_.legend(fontsize=8, loc="lower right")
    curve.plot(list(arrived), list(arrived.values()), "o-")
    curve.axvspan(max(arrived) * 1.01, rates[-1], alpha=0.15, color="C3")
    curve.text(max(arrived) * 1.2, min(arrived.values()) * 2, "never arrives", fontsize=8)
    curve.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel=f"steps until f < {GOAL:g}",
        title="every rate",
    )
    slow = found["too small"][0] or LIMIT
    worse = [found[name][0] is None for name in ("a little too large", "far too large")]
    ok = slow > 10 * arrived[right] and worse[1] and max(arrived) < rates[-1]
    conclude(
        "Gradient descent with too small a rate crawls, with the right one arrives, with too large a one bounces or diverges.",
        HOLDS if ok and all(worse) else PARTLY,
        f"The right rate, {right:.2g}, arrives in {arrived[right]:,} steps; a thirtieth of it needs "
        f"{slow:,}{' or more' if found['too small'][0] is None else ''}; above {max(arrived):.2g} no rate arrives. The cliff is "
        f"close: the best rate is only {math.sqrt(2):.1f} to 2 times below the first that fails.",
        ("rate is", "rate", "steps to arrive", "height at the end"), rows, figure,
        scan={f"{lr:.4g}": steps for lr, (steps, _, _) in scanned.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
