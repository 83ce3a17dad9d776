"""``steepest law``: the scaling law of any table of runs, and a picture of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steepest.cli.main import app

if TYPE_CHECKING:
    from steepest.scaling import BayesLaw, Reading, Table


@app.command()
def law(
    table: Annotated[
        Path, typer.Argument(help="CSV, TSV or JSON lines with N, D and loss; or a folder of run folders.")
    ],
    png: Annotated[
        Path | None, typer.Option(help="Write the picture here.  [default: TABLE-law.png]")
    ] = None,
    compute: Annotated[
        list[float] | None, typer.Option(help="Also predict the best run of this many FLOPs; repeatable.")
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="N,D", help='Also predict this run: "1.5B,30B"; repeatable.')
    ] = None,
    parameters: Annotated[str | None, typer.Option(help="Column of the parameters.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Column of the tokens trained on.")] = None,
    loss: Annotated[str | None, typer.Option(help="Column of the loss.")] = None,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Draw, or only tell.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a scaling law to a table of runs: exponents, the best N and D for a compute, predictions, a picture.

    Example: steepest law runs.csv --at 1.5B,30B
    """
    from steepest.config import parse_count
    from steepest.errors import ConfigError
    from steepest.scaling import fit_bayes, read_law, read_table

    columns = {key: name for key, name in (("n", parameters), ("d", tokens), ("loss", loss)) if name}
    asked = []
    for text in at or []:
        try:
            n, d = (float(parse_count(part)) for part in text.split(","))
        except ValueError:
            raise ConfigError(f'--at takes parameters and tokens, such as "1.5B,30B"; got "{text}"') from None
        asked.append((n, d))
    found = read_table(table, columns)
    fitted = fit_bayes(found.points)
    asked += [fitted.optimal(one) for one in compute or []]
    said = read_law(fitted)
    predicted = [{"n": n, "d": d, **fitted.predict(n, d).record()} for n, d in asked]
    whole = table.absolute()
    path = png or whole.with_name(f"{whole.stem}-law.png")
    if picture:
        from steepest.cli.law_picture import draw_law

        draw_law(path, fitted, said, found.loss)
    if as_json:
        written = {"picture": str(path)} if picture else {}
        points = {"runs": len(found.points), "loss": found.loss}
        print(json.dumps({**points, **said.record(), "predictions": predicted, **written}))
        return
    _tell(found, fitted, said, predicted)
    if picture:
        print(f"\npicture   {path}")


def _tell(table: "Table", law: "BayesLaw", said: "Reading", predicted: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    from steepest.cli.display import Display, in_count
    from steepest.scaling import BESIROGLU, HOFFMANN, KAPLAN
    from steepest.scaling.laws import KAPLAN_COMPUTE_EXPONENT

    console = Console(highlight=False, soft_wrap=True)
    line, points = Display(console).line, table.points
    line("table", f"{len(points)} runs, {in_count(points.n.min())} to {in_count(points.n.max())} parameters, "
         f"{in_count(points.d.min())} to {in_count(points.d.max())} tokens, {points.compute.min():.1e} to "
         f"{points.compute.max():.1e} FLOPs")  # fmt: skip
    line("", f"{table.loss} {points.loss.max():.3f} to {points.loss.min():.3f}")
    line("law", f"L = E + A / N^alpha + B / D^beta, residuals {said.residual:.2%}"
         + ("" if said.left_out is None else f"; the costliest fifth from the rest: {said.left_out:+.2%}"))  # fmt: skip
    line("floor", f"{said.floor_share.median:.0%} of the lowest loss ({said.floor_share.low:.0%} to "
         f"{said.floor_share.high:.0%})")  # fmt: skip

    def grid(*columns: str) -> Grid:
        made = Grid(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if i else "left", no_wrap=True)
        return made

    def split(law: Any) -> str:
        return f"{law.beta / (law.alpha + law.beta):.2f}"

    exponents = grid("exponent", "this table", "80% interval", "Chinchilla", "refit", "Kaplan")
    for name, value, chinchilla, refit, kaplan in (
        ("alpha (N)", said.alpha, f"{HOFFMANN.alpha:.2f}", f"{BESIROGLU.alpha:.3f}", ""),
        ("beta (D)", said.beta, f"{HOFFMANN.beta:.2f}", f"{BESIROGLU.beta:.3f}", ""),
        ("best N ~ C^a", said.size_exponent, split(HOFFMANN), split(BESIROGLU), f"{KAPLAN_COMPUTE_EXPONENT}"),
        ("slope in N", said.slope_n, "", "", f"{KAPLAN.alpha_n}"),
        ("slope in D", said.slope_d, "", "", f"{KAPLAN.alpha_d}"),
        ("slope in C", said.slope_c, "", "", "0.050"),
    ):  # fmt: skip
        exponents.add_row(
            name, f"{value.median:.3f}", f"{value.low:.3f} to {value.high:.3f}", chinchilla, refit, kaplan
        )
    console.print(exponents)
    console.print(
        "slopes are -d ln L at the largest compute: what Kaplan's law, which has no floor, calls exponents\n"
    )

    if said.isoflop_exponent is not None:
        console.print(f"parabolas through the budgets of the table: best N ~ C^{said.isoflop_exponent:.3f}\n")

    best = grid("compute", "times the largest", "best N", "best D", "D / N", "loss", "80% interval")
    for one in said.optima:
        best.add_row(f"{one.compute:.1e}", f"{one.loss.extrapolation:.3g}", in_count(one.n), in_count(one.d),
                     f"{one.d / one.n:.3g}", f"{one.loss.median:.3f}",
                     f"{one.loss.low80:.3f} to {one.loss.high80:.3f}")  # fmt: skip
    console.print(best)
    for run in predicted:
        line("predicted", f"{run['median']:.4f} (80% interval {run['low80']:.4f} to {run['high80']:.4f}, 95% "
             f"{run['low95']:.4f} to {run['high95']:.4f}) at {in_count(run['n'])} parameters and {in_count(run['d'])} "
             f"tokens, {run['extrapolation']:.3g} times the largest compute")  # fmt: skip
    for caveat in said.caveats:
        line("mind", caveat)
