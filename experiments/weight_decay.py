"""Weight decay: worse on what is trained on, nearer to it on the rest? In a plain network, and in a transformer.

Plain: 32-256-10 units learn 500 points with a tenth of their labels wrong, 3,000 steps; 20,000 fresh points are held out.
Transformer: two blocks read 11 kB of text 16 times. Its norms undo the size of the weights, so decay acts there as a larger
rate. AdamW, three seeds each.
"""

from collections.abc import Callable
from statistics import mean

import torch
from claim import COLOURS, FAILS, HOLDS, PARTLY, canvas, conclude, excerpt, teach, train
from torch import nn
from torch.nn.functional import cross_entropy

SEEDS = (0, 1, 2)
POINTS, PLAIN_STEPS, STEPS = 500, 3000, 350


def plain(decay: float, seed: int) -> tuple[float, float]:
    """Training and held-out loss of the plain network, nats a point."""
    torch.manual_seed(seed)
    dice = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
    x, labels = teach(POINTS, dice)
    for _ in range(PLAIN_STEPS):
        batch = torch.randint(POINTS, (50,), generator=dice)
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        fresh, truth = teach(20_000, torch.Generator().manual_seed(8))
        return cross_entropy(model(x), labels).item(), cross_entropy(model(fresh), truth).item()


def transformer(decay: float, seed: int) -> tuple[float, float]:
    """Training and held-out loss of the transformer, nats per byte."""
    run = train(excerpt(16_000), STEPS,  "optim.optimizer=adamw", "optim.lr=6e-3",
                f"optim.weight_decay={decay}", "train.evaluations=0", "data.validation=0.3", seed=seed)  # fmt: skip
    tail = [line["loss"] for line in run.lines if "loss" in line][-22:]  # the last pass over the text
    return mean(tail), run.metrics["loss"]


SETTINGS: dict[str, tuple[Callable[[float, int], tuple[float, float]], tuple[float, ...]]] = {
    "plain network": (plain, (0.0, 0.1, 0.3, 1.0)),
    "transformer": (transformer, (0.0, 1.0)),
}


def main() -> None:
    """Training loss, held-out loss and gap for every strength, in both."""
    found = {name: {decay: [losses(decay, seed) for seed in SEEDS] for decay in decays}
             for name, (losses, decays) in SETTINGS.items()}  # fmt: skip
    rows, verdicts, told = [], {}, []
    figure, both = canvas(2)
    for axes, (name, of) in zip(both, found.items(), strict=True):
        for decay, pairs in of.items():
            gaps = [held - fit for fit, held in pairs]
            rows.append((name, f"{decay:g}", mean(f for f, _ in pairs), mean(h for _, h in pairs), mean(gaps),
                         f"{min(gaps):.3f} to {max(gaps):.3f}"))  # fmt: skip
        places = range(len(of))
        for i, which in enumerate(("training", "held out")):
            axes.plot(places, [mean(pair[i] for pair in pairs) for pairs in of.values()], "o-", label=which)
            for place, pairs in enumerate(of.values()):
                axes.plot([place] * len(SEEDS), [pair[i] for pair in pairs], ".", color=COLOURS[i], alpha=0.5)
        axes.set(xlabel="weight decay", ylabel="loss, nats", title=name)
        axes.set_xticks(places, [f"{decay:g}" for decay in of])
        axes.legend(fontsize=8)
        strong = max(of)
        worse = [b[0] - a[0] for a, b in zip(of[0.0], of[strong], strict=True)]
        nearer = [(a[1] - a[0]) - (b[1] - b[0]) for a, b in zip(of[0.0], of[strong], strict=True)]
        verdicts[name] = min(worse) > 0 and min(nearer) > 0
        told.append(
            f"{name}, decay {strong:g} against none: training loss {mean(worse):+.3f} (each of three seeds: "
            f"{', '.join(f'{x:+.3f}' for x in worse)}), gap {-mean(nearer):+.3f} ({', '.join(f'{-x:+.3f}' for x in nearer)})"
        )
    norms = (
        " The transformer's norms undo the size of its weights, so there decay keeps the steps large instead of the function simple."
        if verdicts["plain network"] and not verdicts["transformer"]
        else ""
    )
    conclude(
        "Weight decay degrades the training loss and narrows the gap to held-out loss.",
        HOLDS if all(verdicts.values()) else PARTLY if any(verdicts.values()) else FAILS,
        f"{'; '.join(told)}.{norms}",
        ("in", "weight decay", "training loss", "held-out loss", "gap", "gap of the seeds"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
