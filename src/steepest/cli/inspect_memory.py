"""``steepest inspect memory``: what a training step takes, by part and phase, and a picture of it."""

import os
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.inspect import config_of, inspect
from steepest.cli.train import Cache, Runs, Set

Timeline = Sequence[tuple[str, int]]  # phase and live bytes
COLUMNS, ROWS = 66, 10  # of a picture in characters
PARTS = ("weights", "optimiser", "gradients", "batch", "activations")
PHASES = {"forward": "forward", "backward": "backward", "between": "clipping", "update": "update"}


@inspect.command()
def memory(
    config: Annotated[str, typer.Argument(help="A run's name or folder, or a TOML file such as run.toml.")],
    changes: Set = None,
    limit: Annotated[
        str | None, typer.Option("--memory", help='Choose the split that fits a process of this size: "2GB".')
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--predict", help="Also run the step and measure it; or only predict.")
    ] = True,
    png: Annotated[Path | None, typer.Option(help="Write the picture here, as PNG.")] = None,
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Table of bytes by part and phase, and a picture of one step, predicted beside measured.

    Example: steepest inspect memory run-001
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures, is talkative
    from steepest.cli.display import Display
    from steepest.train.footprint import measure_training, predict_inference, predict_training
    from steepest.train.run import resolve_device
    from steepest.train.split import process_bytes
    from steepest.units import in_bytes

    resolved = config_of(config, changes or [], runs)
    subject = _subject(config, resolved, runs, cache)
    display = Display()
    if limit is not None:
        resolved = _fitted(resolved, subject, limit, display)
    prediction = predict_training(resolved, subject, whole=True)
    process = process_bytes(resolved, prediction)  # before this one grows by measuring
    display.line("step", _step(resolved))
    inference = None if subject else predict_inference(resolved, sequences=_rows(resolved))
    display.console.print(_table(prediction, inference))
    display.line(
        "predicted", f"{in_bytes(prediction.peak)} live at the peak; found in {prediction.seconds:.1f}s"
    )
    lines: dict[str, Timeline] = {
        "predicted": predict_training(resolved, subject, whole=True, every=True).timeline
    }
    if measure and resolve_device(resolved.train.device).type == "cpu":
        lines["measured"] = [("", live) for live in measure_training(resolved, subject)]
        highest = max(live for _, live in lines["measured"])
        display.line("measured", f"{in_bytes(highest)} by the allocator's own count; the prediction is off by "
                     f"{prediction.peak / highest - 1:+.3%}")  # fmt: skip
    display.line("held", f"{in_bytes(prediction.held)} of activations wait for the backward pass")
    display.line("layer", f"{in_bytes(prediction.layer)} for the most demanding block, {in_bytes(prediction.loss)} "
                 "for head and loss")  # fmt: skip
    display.line("work", f"{sum(prediction.flops.values()) / 1e9:,.1f} GFLOP, "
                 f"{sum(prediction.traffic.values()) / 1e9:,.1f} GB moved")  # fmt: skip
    display.line("process", ", ".join(f"{in_bytes(taken)} with {name}" for name, taken in process.items()))
    for name, timeline in lines.items():
        display.console.print(f"\n{name}: live bytes from the first operation of the step to the last")
        display.console.print("\n".join(_picture(timeline)), markup=False)
    if png is not None:
        _write_png(png, lines)
        display.line("picture", str(png))


def _subject(name: str, config: Any, runs: Path, cache: Path | None) -> Any:
    """Objective and largest batch of a run; none for text, whose batches are known from the config."""
    if config.objective.kind == "next-token":
        return None
    from steepest.data import default_cache
    from steepest.errors import ConfigError
    from steepest.runs import open_run
    from steepest.train.footprint import subject_of
    from steepest.train.kinds import kind_of

    if Path(name).suffix == ".toml":
        raise ConfigError(
            f"{name}: the memory of objective {config.objective.kind} depends on its examples; name a run"
        )
    folder = open_run(name, runs)
    kind = kind_of(config).open(folder, config)
    examples = kind.examples(folder, config, cache or default_cache(), lambda *_: None)
    return subject_of(config, examples, kind.objective)


def _fitted(config: Any, subject: Any, limit: str, display: Any) -> Any:
    """The config with the split that would be chosen under a limit, after showing the choice."""
    from steepest.config import parse_bytes
    from steepest.train.run import sequences_per_step
    from steepest.train.split import fit, unsplit

    free = unsplit(config.replace(train=config.train.replace(memory=parse_bytes(limit))))
    chosen, found = fit(free, preferred=sequences_per_step(free), subject=subject)
    display.show_memory(found.record())
    return chosen


def _rows(config: Any) -> int:
    """Sequences held at once."""
    from steepest.train.run import sequences_per_step

    whole = sequences_per_step(config)
    return min(config.train.micro_batch or whole, whole)


def _step(config: Any) -> str:
    """What the step is, in words."""
    from steepest.train.run import resolve_device, sequences_per_step

    model, train = config.model, config.train
    how = {
        "residual": f"{train.recompute_blocks or 'none'} recomputed"
        if train.backward != "recompute" or train.recompute_blocks
        else "all recomputed",
        "reversible": "rebuilt from their outputs" if train.backward != "store" else "stored",
    }[model.coupling]
    early = ", updated within the backward pass" if train.step_in_backward else ""
    return (
        f"{sequences_per_step(config)} sequences of {model.context} tokens, {_rows(config)} at once; {model.depth} "
        f"{model.coupling} blocks x {model.width}, {how}; {config.optim.optimizer}{early}, {train.dtype} on "
        f"{resolve_device(train.device).type}"
    )


def _table(prediction: Any, inference: Any) -> Any:
    """Bytes by phase and part, the peak marked."""
    from rich.table import Table

    from steepest.units import in_bytes

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("at its worst")
    for column in (*PARTS, "in all"):
        table.add_column(column, justify="right")
    moments = {name: prediction.phases[phase] for phase, name in PHASES.items() if phase in prediction.phases}
    if inference is not None:
        moments["inference"] = inference.worst
    for name, moment in moments.items():
        cells = [in_bytes(getattr(moment, part)) if getattr(moment, part) else "-" for part in PARTS]
        peak = moment.total == prediction.peak and name != "inference"
        total = in_bytes(moment.total)
        table.add_row(name, *cells, f"{total} ◂" if peak else f"{total}  ", style="bold" if peak else None)
    return table


def _picture(timeline: Timeline) -> list[str]:
    """A bar chart in characters, one column for a stretch of the operations, phases named below."""
    from steepest.units import in_bytes

    edges = [round(i * len(timeline) / COLUMNS) for i in range(COLUMNS + 1)]
    stretches = [timeline[min(a, len(timeline) - 1) : max(b, a + 1)] for a, b in pairwise(edges)]
    columns = [max(live for _, live in stretch) for stretch in stretches]
    top = max(columns) or 1
    lines = []
    for row in range(ROWS, 0, -1):
        eighths = [max(0, min(8, round(8 * (column / top * ROWS - row + 1)))) for column in columns]
        lines.append(f"{in_bytes(top * row / ROWS):>8} │{''.join(' ▁▂▃▄▅▆▇█'[n] for n in eighths)}".rstrip())
    lines.append(f"{'0':>8} └{'─' * COLUMNS}")
    phases = [
        (PHASES.get(phase, ""), len(list(group))) for phase, group in groupby(one[0][0] for one in stretches)
    ]
    if all(len(name) < width for name, width in phases if name in ("forward", "backward")):
        named = "".join(name.center(width) if len(name) <= width else " " * width for name, width in phases)
    else:  # of many micro-batches: the first letter of each column's phase
        named = (
            "".join(name[:1] * width for name, width in phases) + "  (forward, backward, clipping, update)"
        )
    return [*lines, f"{'':>8}  {named}".rstrip()]


def _write_png(path: Path, lines: dict[str, Timeline]) -> None:
    from matplotlib.figure import Figure

    from steepest.errors import StorageError

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    predicted = lines["predicted"]
    shades = {"forward": "tab:blue", "backward": "tab:orange", "between": "tab:gray", "update": "tab:green"}
    end = 0
    named: set[str] = set()
    for phase, group in groupby(predicted, key=lambda moment: moment[0]):
        begin, end = end, end + len(list(group))
        axes.axvspan(begin / len(predicted), end / len(predicted), color=shades[phase], alpha=0.12, linewidth=0,
                     label=None if phase in named else PHASES[phase])  # fmt: skip
        named.add(phase)
    for (name, values), style, color in zip(lines.items(), ("-", "--"), ("black", "tab:red"), strict=False):
        share = [(i + 0.5) / len(values) for i in range(len(values))]
        axes.plot(share, [live / 1e6 for _, live in values], style, color=color, label=name, linewidth=1.3)
    axes.set(
        xlabel="share of the step's operations", ylabel="live MB", title="One training step", xlim=(0, 1)
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower center", ncols=3)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot write the picture: {error}") from None
