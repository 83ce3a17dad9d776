"""``steepest inspect memory``: what a training step takes, by part and phase, and a picture of it."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.main import app
from steepest.cli.train import Runs, Set

inspect = typer.Typer(help="Look inside a run or a configuration.", no_args_is_help=True)
app.add_typer(inspect, name="inspect")

COLUMNS, ROWS = 72, 14
PARTS = ("weights", "optimiser", "gradients", "batch", "activations")
PHASES = {"forward": "forward", "backward": "backward", "between": "clipping", "update": "update"}


@inspect.callback()
def look_inside() -> None:
    """Look inside a run or a configuration.

    Example: steepest inspect memory run-001
    """


@inspect.command()
def memory(
    config: Annotated[str, typer.Argument(help="A run's name or folder, or a TOML file such as run.toml.")],
    changes: Set = None,
    measure: Annotated[
        bool, typer.Option("--measure/--predict", help="Also run the step and measure it; or only predict.")
    ] = True,
    png: Annotated[
        Path | None, typer.Option(help="Write the picture here, as PNG (needs matplotlib).")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Table of bytes by part and phase, and a picture of one step, predicted beside measured.

    Example: steepest inspect memory run-001
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures, is talkative
    from rich.console import Console
    from rich.table import Table

    from steepest.cli.display import in_bytes
    from steepest.train.footprint import measure_training, predict_inference, predict_training
    from steepest.train.run import resolve_device, sequences_per_step

    resolved = _config(config, changes or [], runs)
    prediction = predict_training(resolved)
    rows = min(resolved.train.micro_batch or sequences_per_step(resolved), sequences_per_step(resolved))
    inference = predict_inference(resolved, sequences=rows)
    table = Table(box=None, header_style="bold")
    for column in ("peak of", *PARTS, "in all"):
        table.add_column(column, justify="left" if column == "peak of" else "right")
    moments: dict[str, Any] = {str(phase): moment for phase, moment in prediction.phases.items()}
    for phase, name in PHASES.items():
        if phase in moments:
            cells = [in_bytes(getattr(moments[phase], part)) for part in PARTS]
            table.add_row(name, *cells, in_bytes(moments[phase].total))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    train = resolved.train
    recomputed = (
        f"{train.recompute_blocks} blocks recomputed" if train.recompute_blocks else "none recomputed"
    )
    for label, text in (
        ("step", f"micro-batches of {rows} of {sequences_per_step(resolved)} sequences, {resolved.model.depth} "
                 f"{resolved.model.coupling} blocks, {recomputed}"),
        ("predicted", f"{in_bytes(prediction.peak)} live at the peak, in {prediction.seconds:.1f}s"),
        ("held", f"{in_bytes(prediction.held)} of activations wait for the backward pass"),
        ("layer", f"{in_bytes(prediction.layer)} for the most demanding block, {in_bytes(prediction.loss)} for head and loss"),
        ("work", f"{sum(prediction.flops.values()) / 1e9:,.1f} GFLOP, {sum(prediction.traffic.values()) / 1e9:,.1f} GB moved"),
        ("inference", f"{in_bytes(inference.peak)} with {rows} sequences at once"),
    ):  # fmt: skip
        console.print(f"[bold]{label:<10}[/bold]{text}")
    lines = {"predicted": [live for _, live in predict_training(resolved, whole=True, every=True).timeline]}
    if measure and resolve_device(train.device).type == "cpu":
        lines["measured"] = measure_training(resolved)
        highest = max(lines["measured"])
        console.print(
            f"[bold]{'measured':<10}[/bold]{in_bytes(highest)} by the allocator's own count: the prediction is off by "
            f"{prediction.peak / highest - 1:+.3%}"
        )
    for name, values in lines.items():
        console.print(f"\n{name}: live bytes from the first operation of the step to the last")
        console.print("\n".join(_picture(values)))
    if png is not None:
        _write_png(png, lines)
        console.print(f"written to {png}")


def _config(name: str, changes: list[str], runs: Path) -> Any:
    """The config of a run or of a file."""
    from steepest.config import build, load_toml, override
    from steepest.runs import open_run
    from steepest.train.run import RunConfig

    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        path = open_run(name, runs).config
    values = {key: value for key, value in load_toml(path).items() if key != "format"}
    return build(RunConfig, override(values, changes))


def _picture(values: list[int]) -> list[str]:
    """A bar chart in characters, one column for a stretch of the operations."""
    from steepest.cli.display import in_bytes

    edges = [round(i * len(values) / COLUMNS) for i in range(COLUMNS + 1)]
    columns = [max(values[a : max(b, a + 1)], default=0) for a, b in pairwise(edges)]
    top = max(columns, default=0) or 1
    lines = []
    for row in range(ROWS, 0, -1):
        bars = "".join("█" if column >= top * (row - 0.5) / ROWS else " " for column in columns)
        lines.append(f"{in_bytes(top * row / ROWS):>9} │{bars}".rstrip())
    return [*lines, f"{'':>9} └{'─' * COLUMNS}"]


def _write_png(path: Path, lines: dict[str, list[int]]) -> None:
    from steepest.errors import ConfigError, StorageError

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--png needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, values in lines.items():
        share = [i / max(len(values) - 1, 1) for i in range(len(values))]
        style = {"predicted": "-", "measured": "--"}[name]
        axes.plot(share, [value / 1e6 for value in values], style, label=name, linewidth=1.5)
    axes.set(xlabel="share of the step's operations", ylabel="live MB", title="One training step")
    axes.set_ylim(bottom=0)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot write the picture: {error}") from None
