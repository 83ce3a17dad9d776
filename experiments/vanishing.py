"""Vanishing gradients in a deep stack, and what rescues it: initialisation, normalisation, residual connections.

    plain          x <- relu(W x)                 W as torch initialises it
    he             x <- relu(W x)                 W of He et al. (https://arxiv.org/abs/1502.01852)
    norm           x <- relu(W norm(x))
    residual       x <- x + relu(W x)
    residual+norm  x <- x + relu(W norm(x))       what a transformer does

Width 64. First the gradient before the first layer over that after the last, at the start; then 150 steps of Adam at
the better of two rates on a task that any depth can do: tell which of ten centres a noisy point belongs to.
"""

import math
from collections.abc import Callable

import torch
from claim import COLOURS, HOLDS, PARTLY, canvas, conclude
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

WIDTH, DEPTHS, STEPS = 64, (8, 32, 64), 150
RATES = (3e-4, 2e-3)
Step = Callable[[Tensor, nn.Linear], Tensor]
STACKS: dict[str, Step] = {
    "plain": lambda x, layer: layer(x).relu(),
    "he": lambda x, layer: layer(x).relu(),
    "norm": lambda x, layer: layer(layer_norm(x, (WIDTH,))).relu(),
    "residual": lambda x, layer: x + layer(x).relu(),
    "residual+norm": lambda x, layer: x + layer(layer_norm(x, (WIDTH,))).relu(),
}


class Stack(nn.Module):
    """Layers one after another, and a head."""

    def __init__(self, kind: str, depth: int) -> None:
        super().__init__()
        self.kind, self.step = kind, STACKS[kind]
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 10)
        if kind == "he":
            for layer in self.layers:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def streams(self, x: Tensor) -> list[Tensor]:
        """The stream before every layer and after the last."""
        found = [x]
        for layer in self.layers:
            found.append(self.step(found[-1], layer))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten classes."""
        last = self.streams(x)[-1]
        return self.head(layer_norm(last, (WIDTH,)) if "norm" in self.kind else last)


def batch(dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy points around ten fixed centres."""
    centres = torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(10, (256,), generator=dice)
    return centres[labels] + 1.5 * torch.randn(256, WIDTH, generator=dice), labels


def gradient_ratios(kind: str, depth: int) -> list[float]:
    """Root mean square of the loss's gradient at every stream over that at the last."""
    torch.manual_seed(0)
    model = Stack(kind, depth)
    x, labels = batch(torch.Generator().manual_seed(1))
    streams = model.streams(x.requires_grad_())
    last = layer_norm(streams[-1], (WIDTH,)) if "norm" in kind else streams[-1]
    gradients = torch.autograd.grad(cross_entropy(model.head(last), labels), streams)
    norms = [gradient.double().square().mean().sqrt().item() for gradient in gradients]
    return [norm / norms[-1] for norm in norms]


def trained(kind: str, depth: int) -> float:
    """Share of right answers after training, at the best rate."""
    shares = []
    for lr in RATES:
        torch.manual_seed(0)
        model, dice = Stack(kind, depth), torch.Generator().manual_seed(2)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(STEPS):
            x, labels = batch(dice)
            optimizer.zero_grad()
            cross_entropy(model(x), labels).backward()
            optimizer.step()
        with torch.no_grad():
            tests = [batch(dice) for _ in range(4)]
            shares.append(
                sum((model(x).argmax(1) == y).double().mean().item() for x, y in tests) / len(tests)
            )
    return max(shares)


def main() -> None:
    """Every stack at every depth."""
    ratios = {kind: {depth: gradient_ratios(kind, depth) for depth in DEPTHS} for kind in STACKS}
    right = {kind: {depth: trained(kind, depth) for depth in DEPTHS} for kind in STACKS}
    rows = [(kind, *(ratios[kind][depth][0] for depth in DEPTHS), *(f"{right[kind][depth]:.0%}" for depth in DEPTHS))
            for kind in STACKS]  # fmt: skip
    figure, (flow, learned) = canvas(2)
    for kind in STACKS:
        flow.plot(range(65), [max(ratio, 1e-32) for ratio in ratios[kind][64]], label=kind)
        learned.plot(DEPTHS, [right[kind][depth] for depth in DEPTHS], "o-", label=kind)
    flow.axhspan(1 / 30, 30, alpha=0.12, color=COLOURS[2])
    flow.set(
        yscale="log",
        ylim=(1e-32, 1e12),
        xlabel="layer",
        ylabel="gradient over that at the end",
        title="64 layers, before training",
    )
    learned.set(
        xlabel="layers",
        ylabel="right after training",
        ylim=(0, 1.02),
        title=f"{STEPS} steps of Adam, better of two rates",
    )
    learned.set_xticks(DEPTHS)
    flow.legend(fontsize=8, loc="lower right")
    vanishes = ratios["plain"][64][0] < 1e-6 and right["plain"][64] < 0.2
    rescued = [
        kind
        for kind in STACKS
        if kind != "plain" and right[kind][64] > 0.8 * right[kind][8] and right[kind][64] > 0.5
    ]
    even = [kind for kind in rescued if 1 / 30 < ratios[kind][64][0] < 30]
    conclude(
        "Gradients vanish in a plain deep stack; residual connections, normalisation and initialisation rescue it.",
        HOLDS if vanishes and set(rescued) == {"he", "norm", "residual", "residual+norm"} else PARTLY,
        f"In 64 plain layers the gradient shrinks by {_factor(ratios['plain'][64][0])} and nothing is learned ({right['plain'][64]:.0%} right, chance is "
        f"10%). Training works at depth 64 with {', '.join(rescued) or 'none of them'}; an even gradient (1/30 to 30) is had with "
        f"{', '.join(even) or 'none'}. Residual connections without normalisation let it grow by {ratios['residual'][64][0]:.1e}.",
        ("stack", *(f"ratio at {d}" for d in DEPTHS), *(f"right at {d}" for d in DEPTHS)), rows, figure,
    )  # fmt: skip


def _factor(ratio: float) -> str:
    return f"{ratio:.0e}" if ratio and math.isfinite(ratio) else "everything (it underflows)"


if __name__ == "__main__":
    main()
