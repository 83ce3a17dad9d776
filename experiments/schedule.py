"""A rate that falls against one that stays, each at its best peak, for runs of different length.

A network of 32-64-10 units learns a random teacher's labels, a tenth of them wrong, from 32 fresh points a step with
AdamW; cross-entropy on 20,000 fresh points. Early, a run is far from the goal, and a rate that falls wastes steps; late,
what is left is the noise of the steps, and a rate that stays cannot get rid of it.
"""

from collections.abc import Callable
from functools import partial
from statistics import mean

import torch
from claim import FAILS, HOLDS, PARTLY, canvas, conclude, teach
from torch import nn
from torch.nn.functional import cross_entropy

from steepest.optim import schedules

LENGTHS, SEEDS = (30, 100, 300, 1000, 3000), (0, 1, 2)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SCHEDULES: dict[str, Callable[..., float]] = {"constant": schedules.constant, "linear": schedules.linear}


def reach(schedule: str, lr: float, steps: int, seed: int) -> float:
    """Loss at the end."""
    torch.manual_seed(seed)
    model, dice = (
        nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)),
        torch.Generator().manual_seed(seed),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    factor = SCHEDULES[schedule] if schedule == "constant" else partial(SCHEDULES[schedule], total=steps)
    x, labels = teach(32 * steps, dice)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * factor(step)
        batch = slice(32 * step, 32 * step + 32)
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        x, labels = teach(20_000, torch.Generator().manual_seed(8))
        return cross_entropy(model(x), labels).item()


def main() -> None:
    """Every length: each schedule at its best peak, three seeds."""
    best: dict[tuple[str, int], tuple[float, list[float]]] = {}
    for schedule in SCHEDULES:
        for steps in LENGTHS:
            tried = {lr: [reach(schedule, lr, steps, seed) for seed in SEEDS] for lr in RATES}
            lr = min(tried, key=lambda lr, tried=tried: mean(tried[lr]))
            best[schedule, steps] = (lr, tried[lr])
    gains = {
        steps: [c - f for c, f in zip(best["constant", steps][1], best["linear", steps][1], strict=True)]
        for steps in LENGTHS
    }
    rows = [(steps, mean(best["constant", steps][1]), best["constant", steps][0], mean(best["linear", steps][1]), best["linear", steps][0],
             f"{mean(gains[steps]):+.4f} ({min(gains[steps]):+.4f} to {max(gains[steps]):+.4f})") for steps in LENGTHS]  # fmt: skip
    figure, (loss, gain) = canvas(2)
    for schedule in SCHEDULES:
        loss.plot(LENGTHS, [mean(best[schedule, steps][1]) for steps in LENGTHS], "o-", label=schedule)
    loss.set(xscale="log", xlabel="steps of the run", ylabel="loss at the end", title="each at its best peak")
    loss.legend(fontsize=8)
    gain.axhline(0, color="grey", linewidth=0.8)
    gain.plot(LENGTHS, [mean(gains[steps]) for steps in LENGTHS], "o-")
    gain.fill_between(
        LENGTHS, [min(gains[steps]) for steps in LENGTHS], [max(gains[steps]) for steps in LENGTHS], alpha=0.2
    )
    gain.set(
        xscale="log",
        xlabel="steps of the run",
        ylabel="loss, constant less linear",
        title="above 0 the falling rate wins",
    )
    won = [steps for steps in LENGTHS if min(gains[steps]) > 0]
    lost = [steps for steps in LENGTHS if max(gains[steps]) < 0]
    long = LENGTHS[-1]
    conclude(
        "A decaying schedule reaches a lower loss than a constant rate.",
        HOLDS if len(won) == len(LENGTHS) else PARTLY if won else FAILS,
        f"With three seeds each at its best peak, the falling rate wins in runs of {', '.join(map(str, won)) or 'no'} steps"
        f"{' and loses in runs of ' + ', '.join(map(str, lost)) if lost else ''}. At {long:,} steps it is {mean(gains[long]):.4f} nats lower: what a constant "
        f"rate keeps is the noise of its last steps.",
        ("steps", "constant", "at rate", "linear to zero", "at rate ", "constant less linear"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
