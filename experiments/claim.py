"""A claim, its measurement, and the verdict: one table, one picture, one JSON file; and all of them as a page.

Every script here ends by calling ``conclude``. ``python experiments/claim.py`` (``make experiments``) runs them all,
each on its own, and writes ``docs/claims.md`` from what they left in ``experiments/results/``.

Conventions: a script reads from top to bottom in one breath, uses the public names of steepest and torch only,
takes less than two minutes on one core, fixes its seeds, and lets the figures decide the verdict (no verdict is
written by hand). What does not hold as worded is reported so.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "claims.md"
ORDER = (
    "valley",
    "stochastic",
    "schedule",
    "adam",
    "weight_decay",
    "proxy",
    "vanishing",
    "clipping",
    "depth",
    "bigger",
    "gradients",
    "memory",
)
HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"
Verdict = Literal["holds", "holds in part", "does not hold"]
COLOURS = ("#1f6feb", "#d9730d", "#1a9b6c", "#8b5cd6", "#c2397e", "#2b2f38")
MAIN = sys.modules["__main__"]
BEGAN = time.process_time()


def conclude(
    claim: str,
    verdict: Verdict,
    because: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    figure: Any,
    **more: Any,
) -> None:
    """Print the table and the verdict; keep both and the picture under the script's name.

    Args:
        because: the figures that decide, in one or two sentences.
        more: anything else worth keeping in the JSON file.
    """
    name = Path(str(MAIN.__file__)).stem
    lines = [[shown(cell) for cell in row] for row in rows]
    seconds = time.process_time() - BEGAN
    print(f"{claim}\n\n{text_table(header, lines)}\n\n{verdict}: {because}\n({seconds:.0f} CPU seconds)")
    RESULTS.mkdir(exist_ok=True)
    record = {"claim": claim, "verdict": verdict, "because": because, "header": list(header), "rows": lines,
              "cpu_seconds": round(seconds, 1), **more}  # fmt: skip
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


def canvas(columns: int = 2, *, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure and its axes in a row, all in one style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.6 * columns, height), layout="constrained")
        axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_prop_cycle(color=COLOURS)
    return figure, axes


def shown(cell: Any) -> str:
    """A cell as text: four digits of a number, no more."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    if isinstance(cell, int) or math.isinf(cell) or math.isnan(cell):
        return f"{cell:,}" if isinstance(cell, int) else "diverged"
    return f"{cell:.2e}" if cell and not 1e-3 <= abs(cell) < 1e5 else f"{cell:.4g}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width for a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    )


def train(text: Path | str, steps: int, *settings: str, seed: int = 0) -> Any:
    """A small transformer on bytes, trained with ``steepest.train`` into a folder that is thrown away.

    Two blocks of width 64, context 64, 512 tokens a step; ``settings`` such as "optim.lr=1e-3" change that. Returns
    the run; its metric lines are in ``run.lines`` (the folder is gone).
    """
    import steepest

    base = ["tokenizer.kind=bytes", "model.depth=2", "model.width=64", "model.context=64", "batches.batch_tokens=512",
            "train.dtype=float32", "train.device=cpu", "train.sample_tokens=0", "train.threads=1", "health.every=0",
            f"train.seed={seed}", f"batches.seed={seed}"]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        cache = Path(tempfile.gettempdir()) / "steepest-experiments"
        run = steepest.train(str(text), steps=steps, runs=place, cache=cache, overrides=[*base, *settings])
        run.lines = run.folder.read_metrics()  # type: ignore[attr-defined]
    if not run.result.finished:
        raise SystemExit("stopped before the end")
    return run


def teach(count: int, dice: Any, *, wrong: float = 0.1, decades: float = 0.0) -> tuple[Any, Any]:
    """Random points (N, 32) and a random teacher's ten labels for them, always the same teacher.

    Args:
        dice: a ``torch.Generator`` that draws the points.
        wrong: share of labels drawn anew.
        decades: powers of ten over which the scales of the inputs differ; the labels do not depend on them.
    """
    import torch

    fixed = torch.Generator().manual_seed(9)
    first, second = torch.randn(32, 64, generator=fixed), torch.randn(64, 10, generator=fixed)
    scales = 10 ** (decades * torch.rand(32, generator=fixed) - decades / 2)
    x = torch.randn(count, 32, generator=dice)
    labels = (torch.tanh(x @ first / 32**0.5) @ second).argmax(dim=1)
    if wrong:
        anew = torch.rand(count, generator=dice) < wrong
        labels = torch.where(anew, torch.randint(10, (count,), generator=dice), labels)
    return x * scales, labels


def excerpt(size: int) -> Path:
    """The first bytes of the language reference that comes with Python, as a file: so little is soon learnt by heart."""
    import steepest

    path = Path(tempfile.gettempdir()) / f"steepest-excerpt-{size}.txt"
    documents = steepest.read_documents(steepest.DataConfig(sources=["python-docs"]))
    path.write_bytes(b"\n".join(_bytes(document) for document in documents)[:size])
    return path


def _bytes(document: Any) -> bytes:
    text = getattr(document, "text", document)
    return text if isinstance(text, bytes) else str(text).encode()


def write_page(say: Callable[[str], None]) -> None:
    """Run every experiment in a process of its own, then write the page of claims from the results."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    wanted = sys.argv[1:] or list(ORDER)
    for name in [] if wanted == ["page"] else wanted:
        say(f"\n== {name}")
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True, env=environment)
    found = [(name, json.loads((RESULTS / f"{name}.json").read_text())) for name in ORDER
             if (RESULTS / f"{name}.json").exists()]  # fmt: skip
    PAGE.write_text(page(found))
    say(f"\nwritten: {PAGE}")


def page(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The page of claims as Markdown."""
    parts = [
        "# Claims, measured\n\n"
        "What is commonly said about training, each put to the test by one short script on one core in less than two\n"
        "minutes. `make experiments` runs them all and writes this page; no verdict is written by hand. Small models on a\n"
        "little text: evidence about the direction, not about size.\n\n"
        "| claim | verdict |\n|---|---|\n"
    ]
    parts += [f"| [{one['claim']}](#{name.replace('_', '-')}) | {one['verdict']} |\n" for name, one in found]
    for name, one in found:
        table = "\n".join(
            "| " + " | ".join(row) + " |"
            for row in (one["header"], ["---"] * len(one["header"]), *one["rows"])
        )
        parts.append(
            f"\n## {name.replace('_', '-')}\n\n*{one['claim']}* **{one['verdict'][0].upper()}{one['verdict'][1:]}.** "
            f"{one['because']}\n\n{table}\n\n![{one['claim']}](../experiments/results/{name}.png)\n\n"
            f"`python experiments/{name}.py`, {one['cpu_seconds']:.0f} CPU seconds.\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    write_page(print)
