"""Autograd against finite differences, through a whole transformer.

    error(h) = |(L(w + h v) - L(w - h v)) / 2h - v . grad L| / |v . grad L|

for ten random directions v in the space of all weights. In float64 the error falls as h^2, by truncation, until it rises
as 1/h, by rounding: the lowest point of that V says how well the two agree. In float32 rounding wins much earlier.
"""

import torch
from claim import FAILS, HOLDS, canvas, conclude

import steepest
from steepest.data import Batch

STEPS = [10.0 ** (-i / 2) for i in range(2, 19)]


def main() -> None:
    """The V for both precisions."""
    errors = {dtype: measure(dtype) for dtype in (torch.float64, torch.float32)}
    rows = [(f"{h:.0e}", errors[torch.float64][h], errors[torch.float32][h]) for h in STEPS[::2]]
    figure, (axes,) = canvas(1)
    for dtype, of in errors.items():
        axes.plot(list(of), list(of.values()), "o-", label=str(dtype).removeprefix("torch."))
    axes.plot(
        STEPS[:9],
        [errors[torch.float64][STEPS[2]] * (h / STEPS[2]) ** 2 for h in STEPS[:9]],
        ":",
        color="grey",
        label="h squared",
    )
    axes.set(xscale="log", yscale="log", xlabel="h", ylabel="relative error, median of ten directions")
    axes.legend(fontsize=8)
    best = {dtype: min(of.values()) for dtype, of in errors.items()}
    at = min(errors[torch.float64], key=errors[torch.float64].__getitem__)
    conclude(
        "Backpropagation gives the same gradient as finite differences.",
        HOLDS if best[torch.float64] < 1e-7 else FAILS,
        f"In float64 the two agree to {best[torch.float64]:.0e} (at h = {at:.0e}), limited by the differences, which lose digits on both sides "
        f"of it; in float32 to {best[torch.float32]:.0e} at best: differences are a check, backpropagation the method.",
        ("h", "error in float64", "error in float32"), rows, figure,
    )  # fmt: skip


def measure(dtype: torch.dtype) -> dict[float, float]:
    """Median relative error over the directions, for every h."""
    dice = torch.Generator().manual_seed(0)
    shape = steepest.TransformerConfig(vocab_size=64, depth=3, width=64, context=32)
    trunk = steepest.Transformer(shape, generator=dice)
    objective = steepest.NextToken(trunk, torch.ones(64)).to(dtype)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:  # away from the zeros it starts with, so that every path carries something
            p.add_(0.05 * torch.randn(p.shape, generator=dice, dtype=torch.float64).to(dtype))
    ids = torch.randint(64, (4, 33), generator=dice)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.zeros(4, 32, dtype=torch.int64), n_targets=4 * 32)

    def loss() -> torch.Tensor:
        return objective.loss(batch) / batch.n_targets

    gradients = torch.autograd.grad(loss(), parameters)
    found: dict[float, list[float]] = {h: [] for h in STEPS}
    for _ in range(10):
        direction = [torch.randn(p.shape, generator=dice, dtype=torch.float64).to(dtype) for p in parameters]
        slope = sum((g.double() * v.double()).sum().item() for g, v in zip(gradients, direction, strict=True))
        for h in STEPS:
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    originals = [p.clone() for p in parameters]
                    for p, v in zip(parameters, direction, strict=True):
                        p.add_(sign * h * v)
                    ends.append(loss().double().item())
                    for p, original in zip(parameters, originals, strict=True):
                        p.copy_(original)
            found[h].append(abs((ends[0] - ends[1]) / (2 * h) - slope) / abs(slope))
    return {h: sorted(errors)[len(errors) // 2] for h, errors in found.items()}


if __name__ == "__main__":
    main()
