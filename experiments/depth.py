"""Does depth make mappings more complex? Three measures, for the answer depends on what is meant.

could       the most pieces a ReLU network of the same number of units can cut a line into: composed tents give
            2^depth (Telgarsky, https://arxiv.org/abs/1602.04485); one layer of n units gives n + 1
curve       length of the image of a circle, layer by layer, random weights of variance s^2 / width: grows
            exponentially where s is large (Raghu et al., https://arxiv.org/abs/1606.05336)
pieces      pieces along a line through random ReLU networks as they are initialised, 128 units in all, shared out over
            1 to 16 layers: depends on the number of units, hardly on depth (Hanin and Rolnick, https://arxiv.org/abs/1906.00904)
"""

import math
from statistics import mean

import torch
from claim import FAILS, HOLDS, PARTLY, canvas, conclude
from torch import Tensor

LAYERS, UNITS, NETWORKS = (1, 2, 4, 8, 16), 128, 12


def tent_pieces(depth: int) -> int:
    """Pieces of the tent map composed ``depth`` times, counted: each layer has two ReLU units."""
    x = torch.linspace(0, 1, 2**14 + 1, dtype=torch.float64)[:-1] + 2.0**-16
    y = x
    for _ in range(depth):
        y = 2 * y.relu() - 4 * (y - 0.5).relu()
    slopes = (y[1:] - y[:-1]).sign()
    return 1 + int((slopes[1:] * slopes[:-1] < 0).sum())


def line_pieces(depth: int, dice: torch.Generator) -> int:
    """Pieces along a line through a random network: where the pattern of active units changes."""
    width, inputs = UNITS // depth, 16
    t = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None]
    ends = torch.randn(2, inputs, generator=dice, dtype=torch.float64)
    x = (1 - t) / 2 * ends[0] + (1 + t) / 2 * ends[1]
    x = 4 * x
    patterns = []
    for _ in range(depth):
        weight = torch.randn(width, x.shape[1], generator=dice, dtype=torch.float64) * (2 / x.shape[1]) ** 0.5
        bias = 0.3 * torch.randn(width, generator=dice, dtype=torch.float64)
        before = x @ weight.T + bias
        patterns.append(before > 0)
        x = before.relu()
    active = torch.cat(patterns, dim=1)
    return 1 + int((active[1:] != active[:-1]).any(dim=1).sum())


def curve_lengths(spread: float, dice: torch.Generator, *, width: int = 128, depth: int = 12) -> list[float]:
    """Length of a circle's image after every layer of tanh, over that of the circle."""
    angle = torch.linspace(0, 2 * math.pi, 4_001, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(width, 2, generator=dice, dtype=torch.float64))[0] * width**0.5
    x = torch.stack([angle.cos(), angle.sin()], dim=1) @ axes.T
    lengths = [_length(x)]
    for _ in range(depth):
        weight = torch.randn(width, width, generator=dice, dtype=torch.float64) * spread / width**0.5
        x = torch.tanh(x @ weight.T)
        lengths.append(_length(x))
    return [length / lengths[0] for length in lengths]


def _length(x: Tensor) -> float:
    return (x[1:] - x[:-1]).norm(dim=1).sum().item()


def main() -> None:
    """All three measures."""
    dice = torch.Generator().manual_seed(0)
    pieces = {depth: [line_pieces(depth, dice) for _ in range(NETWORKS)] for depth in LAYERS}
    tents = {depth: tent_pieces(depth) for depth in range(1, 11)}
    spreads = (1.0, 2.0, 4.0)
    curves = {
        spread: [mean(x) for x in zip(*(curve_lengths(spread, dice) for _ in range(3)), strict=True)]
        for spread in spreads
    }
    growth = {spread: (curves[spread][8] / curves[spread][2]) ** (1 / 6) for spread in spreads}
    rows: list[tuple[object, ...]] = [
        (f"could: tents, {d} layers ({2 * d} units)", tents[d], 2 * d + 1) for d in (2, 5, 10)
    ]
    rows += [
        (
            f"pieces: random, {d} layers of {UNITS // d}",
            mean(pieces[d]),
            f"{min(pieces[d])} to {max(pieces[d])}",
        )
        for d in LAYERS
    ]
    rows += [
        (f"curve: growth a layer, s = {s:g}", growth[s], f"{curves[s][12]:.3g} after 12") for s in spreads
    ]
    figure, (could, random, curve) = canvas(3)
    could.plot(list(tents), list(tents.values()), "o-", label="deep: composed tents")
    could.plot(list(tents), [2 * d + 1 for d in tents], "o-", label="one layer, as many units")
    could.set(yscale="log", xlabel="layers of two units", ylabel="pieces", title="what it could do")
    could.legend(fontsize=8)
    random.errorbar(LAYERS, [mean(pieces[d]) for d in LAYERS], fmt="o-", capsize=3, yerr=[
        [mean(pieces[d]) - min(pieces[d]) for d in LAYERS], [max(pieces[d]) - mean(pieces[d]) for d in LAYERS]])  # fmt: skip
    random.set(
        xscale="log",
        ylim=(0, None),
        xlabel=f"layers ({UNITS} units in all)",
        ylabel="pieces along a line",
        title="as initialised",
    )
    random.set_xticks(LAYERS, LAYERS)
    for spread in spreads:
        curve.plot(curves[spread], label=f"s = {spread:g}")
    curve.set(yscale="log", xlabel="layer", ylabel="length of a circle's image", title="random tanh networks")
    curve.legend(fontsize=8)
    more = mean(pieces[16]) > 1.5 * mean(pieces[1])
    able = tents[10] > 10 * 21
    grows = growth[4.0] > 1.2
    conclude(
        "Depth makes mappings more complex.",
        HOLDS if more and able and grows else PARTLY if able or grows else FAILS,
        f"In what a network can do, yes: ten layers of two units cut a line into {tents[10]:,} pieces, one layer of twenty into 21 at most. In "
        f"random networks with large weights, yes: a curve grows by {growth[4.0]:.2f} a layer at s = 4. As networks are usually initialised, no: "
        f"{UNITS} units make {mean(pieces[1]):.0f} pieces in one layer and {mean(pieces[16]):.0f} in sixteen, and at s = 1 curves "
        f"{'shrink' if growth[1.0] < 1 else 'grow'} ({growth[1.0]:.2f} a layer). Depth gives the ability; training has to use it.",
        ("measure", "value", "beside it"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
