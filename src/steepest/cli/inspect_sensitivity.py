"""``steepest inspect sensitivity``: how changing one token would change every prediction, over the text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steepest.cli.inspect import inspect
from steepest.cli.inspect_health import Png, level, save_picture
from steepest.cli.train import Runs

LONGEST = 512  # tokens of a text
SHADES = " ░▒▓█"


@inspect.command()
def sensitivity(
    run: Annotated[str, typer.Argument(help="Name or folder of the run.")],
    text: Annotated[str, typer.Option(help="The text, in which one thing is changed after the other.")],
    at: Annotated[
        int | None, typer.Option(help="Token whose prediction is asked about, from 0.  [default: the last]")
    ] = None,
    png: Png = None,
    runs: Runs = Path("runs"),
) -> None:
    """How changing each token would change every prediction: a heat map over the text.

    Example: steepest inspect sensitivity run-001 --text "The import statement"
    """
    from rich.console import Console
    from rich.text import Text

    from steepest import api
    from steepest.errors import ConfigError, DataError
    from steepest.health.sensitivity import next_token_outputs, token_sensitivity
    from steepest.objectives import NextToken

    import torch  # isort: skip

    trained = api.load(run, runs=runs)
    if not isinstance(trained.objective, NextToken):
        raise ConfigError(
            f"sensitivity is of next-token runs; {trained.folder.name} has objective {trained.config.objective.kind}"
        )
    ids = torch.as_tensor(trained.tokenizer.encode(text).astype("int64"))
    longest = min(LONGEST, trained.config.model.context)
    if not 1 <= len(ids) <= longest:
        raise DataError(f"a text of 1 to {longest} tokens is expected; got {len(ids)}: change --text")
    position = len(ids) - 1 if at is None else at
    if not 0 <= position < len(ids):
        raise ConfigError(f"--at must be 0 to {len(ids) - 1}, the text's tokens; got {at}")
    matrix_TT = token_sensitivity(
        trained.objective.trunk, ids, next_token_outputs(trained.objective, ids)
    ).cpu()
    pieces = [trained.tokenizer.decode([int(token)]) for token in ids]
    console = Console(highlight=False, soft_wrap=True)
    row = matrix_TT[position]
    highest = float(row.max()) or 1.0
    shaded = Text()
    for index, (piece, value) in enumerate(zip(pieces, row.tolist(), strict=True)):
        shaded.append(piece, style=_shade(value / highest) + (" underline" if index == position else ""))
    following = "the token likeliest next" if position == len(ids) - 1 else repr(pieces[position + 1])
    console.print(f"[bold]{'output':<11}[/bold]log-probability of {following}, after token {position}")
    console.print(shaded)
    if not console.color_system:
        console.print("".join(SHADES[level(value / highest, len(SHADES))] * _width(piece)
                              for piece, value in zip(pieces, row.tolist(), strict=True)))  # fmt: skip
    order = sorted(range(len(ids)), key=lambda index: -float(row[index]))[:5]
    told = ", ".join(f"{pieces[index]!r} at {index} ({float(row[index]):.3g})" for index in order)
    console.print(f"[bold]{'most':<11}[/bold]{told}  nats per embedding's length")
    console.print(f"[bold]{'all':<11}[/bold]one line a prediction, one column a token that is changed")
    for line in _matrix(matrix_TT, pieces, coloured=console.color_system is not None):
        console.print(line)
    if png is not None:
        save_picture(png, lambda figure: _draw_sensitivity(figure, matrix_TT, pieces), size=(8, 7))
        console.print(f"written to {png}")


def _width(piece: str) -> int:
    return max(1, len(piece.replace("\n", " ")))


def _shade(share: float) -> str:
    """Black on white to white on dark red, for shares 0 to 1."""
    red, rest = round(255 - 90 * share**2), round(255 * (1 - share) ** 1.2)
    return f"{'white' if share > 0.6 else 'black'} on rgb({red},{rest},{rest})"


def _matrix(matrix_TT: Any, pieces: list[str], *, coloured: bool) -> list[Any]:
    """Rows of the heat map, each scaled by its own largest value, the token it comes after in front."""
    from rich.text import Text

    lines = []
    for index, row in enumerate(matrix_TT.tolist()):
        line = Text(f"{pieces[index]!r}"[1:-1].rjust(12)[-12:] + " ")
        highest = max(row) or 1.0
        for value in row[: index + 1]:
            share = value / highest
            if coloured:
                line.append("  ", style=_shade(share))
            else:
                line.append(SHADES[level(share, len(SHADES))] * 2)
        lines.append(line)
    return lines


def _draw_sensitivity(figure: Any, matrix_TT: Any, pieces: list[str]) -> None:
    axes = figure.add_subplot()
    largest = matrix_TT.max(1, keepdim=True).values.clamp_min(1e-30)
    image = axes.imshow((matrix_TT / largest).numpy(), cmap="Reds", vmin=0, vmax=1)
    labels = [repr(piece)[1:-1] for piece in pieces]
    if len(labels) <= 80:
        size = max(4, min(9, 400 // len(labels)))
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size, family="monospace")
        axes.set_yticks(range(len(labels)), labels, fontsize=size, family="monospace")
    axes.set(xlabel="token that is changed", ylabel="prediction after this token",
             title="Sensitivity of each prediction, over its largest")  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.7)
