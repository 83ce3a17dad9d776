"""``steepest inspect health``: gradient flow and Jacobian spectra of a run or a configuration, and verdicts."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steepest.cli.inspect import config_of, inspect
from steepest.cli.train import Cache, Runs, Set

if TYPE_CHECKING:
    from steepest.health import Verdict
    from steepest.health.jacobians import Depth

ROWS = 4  # sequences that a run's weights are looked at with
SPECTRUM_TOKENS = 32  # of the sequence whose Jacobians are taken
BARS = "▁▂▃▄▅▆▇█"

Png = Annotated[Path | None, typer.Option(help="Write the picture here, as PNG.")]


@inspect.command()
def health(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|CONFIG", help="A run's name or folder, or a TOML file.")
    ],
    changes: Set = None,
    steps: Annotated[int, typer.Option(help="Of a configuration: steps to train.", min=1)] = 20,
    random: Annotated[
        bool, typer.Option("--random", help="Of a configuration: on random tokens instead of its data.")
    ] = False,
    spectra: Annotated[
        bool,
        typer.Option("--spectra/--no-spectra", help="Also the singular values of the blocks' Jacobians."),
    ] = True,
    png: Png = None,
    runs: Runs = Path("runs"),
    cache: Cache = None,
) -> None:
    """Gradient flow block by block, Jacobian spectra along the depth, and verdicts in words.

    Example: steepest inspect health run-001
    """
    from rich.console import Console

    path = Path(subject)
    alone = path.suffix == ".toml" and path.is_file()
    looked = (
        _try_config(path, changes or [], steps, random, cache)
        if alone
        else _look_at_run(subject, changes or [], runs, cache)
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{'looked at':<11}[/bold]{looked.said}")
    depths = _spectra(looked.trunk, looked.ids_T) if spectra else []
    console.print(_stream_table(looked.flow, depths))
    console.print()
    console.print(_part_table(looked.flow))
    ratio = looked.flow["first_to_last"]
    told = "" if ratio is None else f"; first over last {ratio:.3g}"
    stream = looked.flow["stream"]
    console.print(
        f"\n[bold]{'gradient':<11}[/bold]{_bars(stream['gradient'])}  of the stream, block by block{told}"
    )
    console.print(
        f"[bold]{'stream':<11}[/bold]{_bars(stream['activation'])}  root mean square, block by block"
    )
    if depths:
        last, tokens = depths[-1].product, min(len(looked.ids_T), SPECTRUM_TOKENS)
        exact = "" if last.error < 0.01 else f" (still {last.error:.0%} uncertain)"
        console.print(f"[bold]{'Jacobian':<11}[/bold]of all blocks, at {tokens} tokens: singular values up to {last.largest:.3g}"
                      f"{exact}, root mean square {last.rms:.3g}")  # fmt: skip
    if not looked.verdicts:
        console.print(f"[bold]{'verdict':<11}[/bold]healthy: none of twelve sicknesses shows")
    for verdict in looked.verdicts:
        console.print(f"[bold]{'verdict':<11}[/bold]{verdict.sentence}")
    if png is not None:
        save_picture(png, lambda figure: _draw_health(figure, looked, depths), size=(10, 7))
        console.print(f"written to {png}")


class _Looked:
    """What ``health`` shows, of a run or of a configuration."""

    def __init__(
        self,
        said: str,
        trunk: Any,
        ids_T: Any,
        flow: Any,
        verdicts: "list[Verdict]",
        records: list[dict[str, Any]],
    ) -> None:
        self.said, self.trunk, self.ids_T, self.flow = said, trunk, ids_T, flow
        self.verdicts, self.records = verdicts, records


def _look_at_run(name: str, changes: list[str], runs: Path, cache: Path | None) -> _Looked:
    from steepest import api
    from steepest.data import default_cache
    from steepest.errors import ConfigError
    from steepest.health import diagnose, gradient_flow
    from steepest.train.health_watch import habits_of

    if changes:
        raise ConfigError("--set is for a configuration; a run is looked at as it is")
    run = api.load(name, runs=runs)
    config = run.config
    examples = run.kind.examples(run.folder, config, cache or default_cache(), lambda *_: None)
    batch = examples.train_batches(config.batches, context=config.model.context, rows=ROWS).at(0)
    run.objective.train()
    records = run.folder.read_metrics()
    said = f"run {run.folder.name}, weights of step {run.step:,}, {ROWS} sequences of its training data"
    return _Looked(
        said, run.objective.trunk, batch.ids_BT[0], gradient_flow(run.objective, batch),
        diagnose(records, habits_of(config)), records,
    )  # fmt: skip


def _try_config(path: Path, changes: list[str], steps: int, random: bool, cache: Path | None) -> _Looked:
    from steepest.cli.display import Display
    from steepest.data import default_cache
    from steepest.train.health_trial import try_health

    given = config_of(str(path), changes, Path())
    display = Display()

    def listen(name: str, fields: dict[str, Any]) -> None:
        if name in ("data", "progress"):
            display(name, fields)

    try:
        trial = try_health(
            given,
            steps=steps,
            every=max(1, steps // 5),
            random=random,
            cache=cache or default_cache(),
            listen=listen,
        )
    finally:
        display.close()
    flow = [record for record in trial.records if "gradient_flow" in record][-1]["gradient_flow"]
    model = trial.config.model
    said = f"{path.name}, {model.depth} layers x {model.width} wide, after {steps} steps on " + (
        "random tokens" if random else "its data"
    )
    ids_T = trial.state.batches.at(0).ids_BT[0]
    return _Looked(said, trial.state.objective.trunk, ids_T, flow, trial.verdicts, trial.records)


def _spectra(trunk: Any, ids_T: Any) -> "list[Depth]":
    import copy

    from steepest.health.jacobians import depth_spectra

    return depth_spectra(copy.deepcopy(trunk).double(), ids_T[:SPECTRUM_TOKENS])


def _stream_table(flow: dict[str, Any], depths: "list[Depth]") -> Any:
    """The stream before each block, and what the blocks' Jacobians do to it."""
    stream = flow["stream"]
    columns = {"stream": stream["activation"], "gradient": stream["gradient"]}
    if depths:
        columns |= {
            "J largest": [one.block.largest for one in depths],
            "J smallest": [one.block.smallest for one in depths],
            "J rms": [one.block.rms for one in depths],
            "all largest": [one.product.largest for one in depths],
            "all rms": [one.product.rms for one in depths],
        }
    names = [str(index + 1) for index in range(len(stream["gradient"]) - 1)]
    return _table("block", [*names, "after"], columns)


def _part_table(flow: dict[str, Any]) -> Any:
    """What each half of each block adds, its gradient and its update; embedding and head below."""
    columns: dict[str, list[Any]] = {}
    for half, own in (("attention", "logit"), ("mlp", "dead")):
        short = {"attention": "attn"}.get(half, half)
        columns |= {f"{short} adds": flow[half]["activation"], f"{short} grad": flow[half]["gradient"],
                    f"{short} upd": flow[half]["update"], own: flow[half][own]}  # fmt: skip
    names = [str(index + 1) for index in range(len(flow["mlp"]["dead"]))]
    for role in ("embedding", "head"):
        if role in flow:
            names.append({"embedding": "embed"}.get(role, role))
            for name, key in (("attn adds", "activation"), ("attn grad", "gradient"), ("attn upd", "update")):
                columns[name] = [*columns[name], *flow[role].get(key, [None])]
    return _table("block", names, columns)


def _table(first: str, names: list[str], columns: dict[str, list[Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in (first, *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for index, name in enumerate(names):
        cells = [values[index] if index < len(values) else None for values in columns.values()]
        table.add_row(name, *map(_short, cells))
    return table


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _bars(values: list[float | None]) -> str:
    """A bar a value, on a logarithmic scale of at least one decade."""
    logs = [math.log10(value) if value and value > 0 else None for value in values]
    known = [log for log in logs if log is not None]
    if not known:
        return "?" * len(values)
    low, high = min(known), max(max(known), min(known) + 1)
    return "".join("·" if log is None else BARS[level((log - low) / (high - low), len(BARS))] for log in logs)


def level(share: float, levels: int) -> int:
    """Which of some levels a share from 0 to 1 is."""
    return min(levels - 1, max(0, round(share * (levels - 1)))) if share == share else 0


def save_picture(path: Path, draw: Any, *, size: tuple[float, float]) -> None:
    """Draw a figure and write it, in the format that the path names."""
    from matplotlib.figure import Figure

    from steepest.errors import StorageError

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot write the picture: {error}") from None


def _draw_health(figure: Any, looked: _Looked, depths: "list[Depth]") -> None:
    """Stream and its gradient by depth, singular values by depth, and gradient by depth and step."""
    probes = [record for record in looked.records if "gradient_flow" in record]
    panels = figure.subplots(2, 2)
    stream = looked.flow["stream"]
    places = range(len(stream["gradient"]))
    for axes, name, title in (
        (panels[0][0], "gradient", "Gradient of the stream"),
        (panels[0][1], "activation", "Stream"),
    ):
        axes.plot(places, [value or math.nan for value in stream[name]], "o-", color="tab:blue")
        axes.set(title=title, xlabel="blocks before it", ylabel="root mean square", yscale="log")
    if depths:
        at = range(1, len(depths) + 1)
        for name, colour in (("block", "tab:orange"), ("product", "tab:green")):
            spectra = [getattr(one, name) for one in depths]
            label = "each block" if name == "block" else "all blocks up to it"
            panels[1][0].plot(
                at, [one.largest for one in spectra], "^-", color=colour, label=f"{label}: largest"
            )
            panels[1][0].plot(at, [one.rms for one in spectra], "o--", color=colour, label="rms")
        panels[1][0].set(title="Singular values of Jacobians", xlabel="block", yscale="log")
        panels[1][0].xaxis.get_major_locator().set_params(integer=True)
        panels[1][0].legend(fontsize=8)
    else:
        panels[1][0].set_visible(False)
    if probes:
        heat = [[math.log10(value) if value else math.nan for value in record["gradient_flow"]["stream"]["gradient"]]
                for record in probes]  # fmt: skip
        mesh = panels[1][1].pcolormesh(
            range(len(probes)), list(places), list(zip(*heat, strict=True)), shading="nearest"
        )
        shown = range(0, len(probes), max(1, len(probes) // 8))
        panels[1][1].set_xticks(shown, [str(probes[index]["step"]) for index in shown])
        panels[1][1].set(title="Gradient of the stream, log10", xlabel="step", ylabel="blocks before it")
        figure.colorbar(mesh, ax=panels[1][1])
    else:
        panels[1][1].set_visible(False)
