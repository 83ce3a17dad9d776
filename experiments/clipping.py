"""Clipping the gradient's norm on a cliff.

    h_{t+1} = w sigmoid(h_t) + b,  50 times from h_0 = 0.5;  loss = (sigmoid(h_50) - 0.7)^2

The one-unit recurrent net of Pascanu et al. (https://arxiv.org/abs/1211.5063): its loss over (w, b) has a cliff, where
one plain step throws the weights far away. Gradient descent from 100 random starts, with and without
``steepest.clip_grad_norm_``.
"""

import torch
from claim import COLOURS, FAILS, HOLDS, PARTLY, canvas, conclude
from torch import Tensor

import steepest

STEPS, RATE, GOAL = 300, 0.5, 1e-4
BOUNDS = (None, 10.0, 1.0, 0.1)


def loss(w: Tensor, b: Tensor) -> Tensor:
    """The last state's distance from 0.7, squared."""
    h = torch.full_like(w, 0.5)
    for _ in range(50):
        h = w * torch.sigmoid(h) + b
    return (torch.sigmoid(h) - 0.7) ** 2


def descend(starts: Tensor, bound: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """All starts side by side: their paths, their last losses, and their longest steps."""
    weights = [start.clone().requires_grad_() for start in starts]  # one each, for each is clipped on its own
    optimizer = torch.optim.SGD(weights, lr=RATE)
    path, longest = [starts], torch.zeros(len(starts), dtype=starts.dtype)
    for _ in range(STEPS):
        optimizer.zero_grad()
        both = torch.stack(weights)
        losses = loss(both[:, 0], both[:, 1])
        (losses * (losses.detach() > GOAL)).sum().backward()  # who has arrived stays
        if bound is not None:
            for one in weights:
                steepest.clip_grad_norm_([one], bound)
        optimizer.step()
        path.append(torch.stack(weights).detach())
        longest = torch.maximum(longest, (path[-1] - path[-2]).norm(dim=1))
    both = path[-1]
    return torch.stack(path), loss(both[:, 0], both[:, 1]), longest


def main() -> None:
    """All starts with every bound."""
    dice = torch.Generator().manual_seed(0)
    low, high = torch.tensor([4.0, -4.0], dtype=torch.float64), torch.tensor([8.0, -2.0], dtype=torch.float64)
    starts = low + (high - low) * torch.rand(100, 2, generator=dice, dtype=torch.float64)
    found = {bound: descend(starts, bound) for bound in BOUNDS}
    rows, arrived = [], {}
    for bound, (_, losses, longest) in found.items():
        arrived[bound] = int((losses < 1.01 * GOAL).sum())
        rows.append(
            (bound or "none", f"{arrived[bound]}%", f"{int((longest > 5).sum())}%", longest.max().item())
        )
    # The start that plain descent throws furthest.
    worst = int(found[None][2].argmax())
    figure, (map_, curve) = canvas(2)
    w, b = torch.meshgrid(torch.linspace(0, 12, 240), torch.linspace(-7, 0, 240), indexing="xy")
    map_.contourf(w, b, loss(w, b), levels=20, cmap="Greys", alpha=0.6)
    for bound, colour in ((None, COLOURS[1]), (1.0, COLOURS[0])):
        path = found[bound][0][:, worst]
        map_.plot(path[:, 0], path[:, 1], ".-", color=colour, markersize=3, linewidth=0.9,
                  label="not clipped" if bound is None else f"clipped at {bound:g}")  # fmt: skip
    map_.plot(*starts[worst].tolist(), "o", color="black", markersize=5)
    map_.set(xlim=(0, 12), ylim=(-7, 0), xlabel="w", ylabel="b", title="one start; dark is high")
    map_.legend(fontsize=8)
    curve.bar(
        [str(bound or "none") for bound in BOUNDS], [arrived[bound] for bound in BOUNDS], color=COLOURS[0]
    )
    curve.set(
        xlabel="bound of the gradient's norm", ylabel=f"starts that reach {GOAL:g}, %", title="100 starts"
    )
    best = max(arrived[bound] for bound in BOUNDS if bound)
    thrown = [int((found[bound][2] > 5).sum()) for bound in (None, 1.0)]
    conclude(
        "Clipping the gradient's norm gets gradient descent safely past cliffs.",
        HOLDS if best >= arrived[None] + 10 and thrown[1] == 0 else PARTLY if thrown[1] < thrown[0] else FAILS,
        f"Without clipping {arrived[None]}% of the starts arrive and {thrown[0]}% make a step longer than 5 (the longest: {rows[0][3]:.3g}); clipped at "
        f"1, {arrived[1.0]}% arrive and {thrown[1]}% make one. Too tight a bound only slows: at 0.1, {arrived[0.1]}% arrive in {STEPS} steps.",
        ("bound", "arrived", "thrown further than 5", "longest step"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
