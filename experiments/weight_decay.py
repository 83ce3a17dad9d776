"""Weight decay: worse on the training text, nearer to it on other text?

A small transformer reads 11 kB of text 16 times; three seeds; loss over the whole training and held-out text.
"""

from statistics import mean

from claim import COLOURS, FAILS, HOLDS, PARTLY, canvas, conclude, excerpt, train

STEPS, SEEDS, DECAYS = 350, (0, 1, 2), (0.0, 1.0)


def losses(decay: float, seed: int) -> tuple[float, float]:
    """Training and held-out loss at the end, nats per byte."""
    run = train(excerpt(16_000), STEPS,  "optim.optimizer=adamw", "optim.lr=6e-3",
                f"optim.weight_decay={decay}", "train.evaluations=0", "data.validation=0.3", seed=seed)  # fmt: skip
    tail = [line["loss"] for line in run.lines if "loss" in line][-22:]  # the last pass over the text
    return mean(tail), run.metrics["loss"]


def main() -> None:
    """Training loss, held-out loss and gap for every strength."""
    found = {decay: [losses(decay, seed) for seed in SEEDS] for decay in DECAYS}
    rows = []
    for decay, pairs in found.items():
        gaps = [held - fit for fit, held in pairs]
        rows.append((f"{decay:g}", mean(f for f, _ in pairs), mean(h for _, h in pairs), mean(gaps),
                     f"{min(gaps):.3f} to {max(gaps):.3f}"))  # fmt: skip
    figure, (axes,) = canvas(1)
    places = range(len(DECAYS))
    for i, name in enumerate(("training", "held out")):
        axes.plot(places, [mean(pair[i] for pair in found[decay]) for decay in DECAYS], "o-", label=name)
        for place, decay in zip(places, DECAYS, strict=True):
            axes.plot(
                [place] * len(SEEDS), [pair[i] for pair in found[decay]], ".", color=COLOURS[i], alpha=0.5
            )
    axes.set(xlabel="weight decay", ylabel="nats per byte")
    axes.set_xticks(places, [f"{decay:g}" for decay in DECAYS])
    axes.legend(fontsize=8)
    strong = DECAYS[1]
    worse = [b[0] - a[0] for a, b in zip(found[0.0], found[strong], strict=True)]
    nearer = [(a[1] - a[0]) - (b[1] - b[0]) for a, b in zip(found[0.0], found[strong], strict=True)]
    better = [a[1] - b[1] for a, b in zip(found[0.0], found[strong], strict=True)]
    both = min(worse) > 0 and min(nearer) > 0
    conclude(
        "Weight decay degrades the training loss and narrows the gap to held-out loss.",
        HOLDS if both else PARTLY if min(worse) > 0 or min(nearer) > 0 else FAILS,
        f"With decay {strong:g} against none the training loss is {mean(worse):+.3f} nats (each of three seeds: "
        f"{', '.join(f'{x:+.3f}' for x in worse)}), the gap {-mean(nearer):+.3f} ({', '.join(f'{-x:+.3f}' for x in nearer)}), the "
        f"held-out loss {-mean(better):+.3f}.",
        ("weight decay", "training loss", "held-out loss", "gap", "gap of the seeds"), rows, figure,
    )  # fmt: skip


if __name__ == "__main__":
    main()
