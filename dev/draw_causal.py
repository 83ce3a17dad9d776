"""Draw the pictures of docs/seeing-and-doing.md from benchmarks/results/causal_demos.jsonl.

python benchmarks/causal_demos.py && python dev/draw_causal.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).parent.parent
TRUE_EFFECT = 0.0537  # of A over B, by the table of the 700
SEEN, DONE, TRUTH, GREY = "#c2703d", "#2f6f8f", "#222222", "#8a8a8a"


def graph(axes: Any, nodes: dict[str, tuple[float, float]], edges: list[tuple[str, str]], *, cut: tuple[str, ...] = (),
          tied: tuple[tuple[str, str], ...] = (), title: str = "") -> None:  # fmt: skip
    """Nodes and arrows; what ``do`` cuts is dotted, hidden causes are dashed arcs."""
    for a, b in edges:
        gone = f"{a}>{b}" in cut
        axes.annotate(
            "", nodes[b], nodes[a],
            arrowprops={"arrowstyle": "-|>", "lw": 1.6, "color": "#d0d0d0" if gone else TRUTH,
                        "ls": ":" if gone else "-", "shrinkA": 30, "shrinkB": 30},
        )  # fmt: skip
    for a, b in tied:
        axes.annotate(
            "", nodes[b], nodes[a],
            arrowprops={"arrowstyle": "<|-|>", "lw": 1.4, "color": GREY, "ls": "--", "shrinkA": 24, "shrinkB": 24,
                        "connectionstyle": "arc3,rad=-0.45"},
        )  # fmt: skip
    for name, (x, y) in nodes.items():
        axes.text(x, y, name, ha="center", va="center", fontsize=10,
                  bbox={"boxstyle": "round,pad=0.45", "fc": "white", "ec": TRUTH, "lw": 1.1})  # fmt: skip
    axes.set(xlim=(-0.45, 1.45), ylim=(-0.4, 1.4), title=title)
    axes.axis("off")


def simpson(runs: list[dict[str, Any]]) -> None:
    """Seen and done, beside the truth."""
    truth = runs[0]["truth"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), width_ratios=[1, 1, 1.5])
    nodes = {"stone": (0.5, 1.0), "treatment": (-0.1, 0.0), "recovered": (1.1, 0.0)}
    edges = [("stone", "treatment"), ("stone", "recovered"), ("treatment", "recovered")]
    graph(left, nodes, edges, title="seeing treatment = A")
    graph(middle, nodes, edges, cut=("stone>treatment",), title="doing treatment = A")
    for place, (key, color, label) in enumerate((("seen", SEEN, "seen"), ("done", DONE, "done"))):
        values = [run[key] for run in runs]
        right.bar(place, np.mean(values), 0.5, color=color, label=label)
        right.scatter([place] * len(values), values, s=14, color="white", edgecolor=TRUTH, zorder=3)
        right.hlines(
            truth[key], place - 0.36, place + 0.36, color=TRUTH, lw=1.6, label="truth" if place else None
        )
        right.text(place + 0.40, np.mean(values), f"{np.mean(values):+.3f}", va="center", fontsize=10)
    right.axhline(0, color=GREY, lw=0.8)
    right.set(xticks=[0, 1], xticklabels=["seen: A less B", "done: A less B"], xlim=(-0.5, 1.8),
              title="difference in P(recovered)")  # fmt: skip
    right.legend(frameon=False, loc="upper left")
    save(figure, "causal-simpson.png")


def arrows(runs: list[dict[str, Any]]) -> None:
    """Three graphs that fit equally well, and what each makes of the effect."""
    labels = list(dict.fromkeys(one["graph"] for one in runs))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True)
    for place, label in enumerate(labels):
        mine = [one for one in runs if one["graph"] == label]
        left.scatter([one["held_out"] for one in mine], [place] * len(mine), color=DONE, s=34)
        right.scatter([one["effect"] for one in mine], [place] * len(mine), color=SEEN, s=34)
    centre = float(np.mean([one["held_out"] for one in runs]))
    left.set(yticks=range(len(labels)), yticklabels=labels, xlim=(centre - 0.01, centre + 0.01), ylim=(-0.6, 2.6),
             title="held-out nats per row: the same", xlabel="a dot a seed; the axis is 0.02 nats wide")  # fmt: skip
    right.axvline(TRUE_EFFECT, color=TRUTH, lw=1.4)
    right.text(TRUE_EFFECT - 0.002, 2.35, "truth", ha="right", fontsize=9)
    right.axvline(0, color=GREY, lw=0.8)
    right.set(title='"effect" of A over B: not the same')
    left.invert_yaxis()
    left.locator_params(axis="x", nbins=5)
    save(figure, "causal-arrows.png")


def front_door(runs: list[dict[str, Any]]) -> None:
    """P(y | do x): by the front door, with the hidden cause denied, and as seen."""
    truth = runs[0]["truth"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[1, 1.6])
    graph(left, {"x": (0.0, 0.2), "m": (0.5, 0.2), "y": (1.0, 0.2)}, [("x", "m"), ("m", "y")], tied=(("x", "y"),),
          title="x <-> y: a hidden cause of both")  # fmt: skip
    shown = (
        ("front door", "done", DONE),
        ("hidden cause denied", "done", GREY),
        ("front door", "seen", SEEN),
    )
    for place, (label, key, color) in enumerate(shown):
        for value, marker in enumerate("os"):
            figures = [run[key][value] for run in runs if run["graph"] == label]
            right.scatter(figures, [place] * len(figures), color=color, marker=marker, s=42, zorder=3)
    for value in "01":
        right.axvline(truth[value], color=TRUTH, lw=1.2)
        right.text(truth[value] + 0.005, 2.62, f"truth, x = {value}", ha="left", fontsize=9)
    right.set(yticks=range(3), yticklabels=["do(x), with x <-> y", "do(x), hidden cause denied", "seen: P(y | x)"],
              ylim=(-0.6, 2.9), xlabel="P(y = 1); circles x = 0, squares x = 1, one a seed")  # fmt: skip
    save(figure, "causal-front-door.png")


def save(figure: Any, name: str) -> None:
    """Without the frames, into docs/."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / name, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    path = ROOT / "benchmarks" / "results" / "causal_demos.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    simpson([one for one in lines if one["demo"] == "simpson"])
    arrows([one for one in lines if one["demo"] == "arrow"])
    front_door([one for one in lines if one["demo"] == "front door"])
