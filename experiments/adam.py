"""Adam against SGD over a grid of learning rates: which needs less tuning, and which gets further. In two settings.

Badly scaled: a network of 32-64-10 units learns a random teacher's labels from inputs whose scales differ by up to a thousand, 1,000
steps of 32 fresh points. Transformer: two blocks on the bytes of Python's language reference, 200 steps. Neighbouring rates differ
by a factor of 4.
"""

import math
from collections.abc import Callable
from statistics import mean

import torch
from claim import FAILS, HOLDS, PARTLY, canvas, conclude, teach, train
from torch import nn
from torch.nn.functional import cross_entropy

from steepest.errors import TrainingError

STEPS, SCALED_STEPS, SEEDS = 200, 1000, (0, 1)
USUAL = {"adamw": 1e-3, "sgd": 1e-1}  # the usual first guesses


def scaled(optimizer: str, lr: float) -> float:
    """Held-out loss in nats, mean of the seeds; infinite where training broke."""
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        dice = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
        updater: torch.optim.Optimizer = (
            torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
            if optimizer == "adamw"
            else torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        )
        x, labels = teach(32 * SCALED_STEPS, dice, wrong=0.0, decades=3.0)
        for step in range(SCALED_STEPS):
            for group in updater.param_groups:
                group["lr"] = lr * (1 - step / SCALED_STEPS)
            batch = slice(32 * step, 32 * step + 32)
            updater.zero_grad()
            cross_entropy(model(x[batch]), labels[batch]).backward()
            updater.step()
        with torch.no_grad():
            fresh, truth = teach(5_000, torch.Generator().manual_seed(8), wrong=0.0, decades=3.0)
            found.append(cross_entropy(model(fresh), truth).item())
    return mean(found) if all(map(math.isfinite, found)) else math.inf


def transformer(optimizer: str, lr: float) -> float:
    """Held-out bits per byte; infinite where training broke."""
    try:
        run = train(
            "python-docs", STEPS, f"optim.optimizer={optimizer}", f"optim.lr={lr}", "train.evaluations=1"
        )
    except TrainingError:
        return math.inf
    value = run.metrics["bits_per_byte"]
    return value if math.isfinite(value) else math.inf


# How it is trained, the unit, how near to the best still counts as good, and the rates.
SETTINGS: dict[str, tuple[Callable[[str, float], float], str, float, dict[str, list[float]]]] = {
    "badly scaled": (scaled, "nats", 0.05,
                     {"adamw": [1e-4 * 4**i for i in range(7)], "sgd": [1e-5 * 4**i for i in range(8)]}),
    "transformer": (transformer, "bits per byte", 0.15,
                    {"adamw": [1e-4 * 4**i for i in range(6)], "sgd": [1e-2 * 4**i for i in range(6)]}),
}  # fmt: skip


def said(value: float) -> str:
    """A loss, if there is one."""
    return f"{value:.3f}" if value < 1e3 else "infinity, for it diverges"


def main() -> None:
    """In both: the grid, how wide the good part is, and how good the usual first guess is."""
    rows, told, verdicts = [], [], []
    figure, both = canvas(2)
    for axes, (name, (reach, unit, near, grids)) in zip(both, SETTINGS.items(), strict=True):
        found = {which: {lr: reach(which, lr) for lr in grid} for which, grid in grids.items()}
        best = {which: min(of.values()) for which, of in found.items()}
        wide = {
            which: sum(value <= best[which] + near for value in of.values()) for which, of in found.items()
        }
        usual = {which: found[which][min(grids[which], key=lambda lr, which=which: abs(math.log(lr / USUAL[which])))]
                 for which in found}  # fmt: skip
        rows += [(name, which, f"{lr:.2g}", value) for which, of in found.items() for lr, value in of.items()]
        for which, of in found.items():
            middle = min(of, key=of.__getitem__)
            shown = {lr / middle: value for lr, value in of.items() if value < best[which] + 3}
            axes.plot(list(shown), list(shown.values()), "o-", label=f"{which}, best at {middle:.2g}")
        axes.set(
            xscale="log", xlabel="learning rate over the best", ylabel=f"held-out loss, {unit}", title=name
        )
        axes.legend(fontsize=8)
        less = wide["adamw"] > wide["sgd"] or (
            wide["adamw"] == wide["sgd"] and usual["adamw"] - best["adamw"] < usual["sgd"] - best["sgd"]
        )
        verdicts += [less, best["adamw"] < best["sgd"] - near / 5]
        told.append(
            f"{name}: at its best rate AdamW reaches {best['adamw']:.3f} {unit}, SGD with momentum {best['sgd']:.3f}; within {near} of "
            f"their best lie {wide['adamw']} of {len(grids['adamw'])} rates of AdamW and {wide['sgd']} of {len(grids['sgd'])} of SGD; "
            f"the usual first guess (1e-3 and 0.1) is at {said(usual['adamw'])} and {said(usual['sgd'])}"
        )
    conclude(
        "Adam gets further than SGD with less tuning.",
        HOLDS if all(verdicts) else PARTLY if any(verdicts) else FAILS,
        f"{'; '.join(told)}. (Rates are a factor of 4 apart; gradients are clipped in the transformer, which helps SGD.)",
        ("in", "optimiser", "rate", "held-out loss"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
