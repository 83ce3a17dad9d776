"""``steepest ask`` and ``steepest graph``: seeing, doing, and what a graph lets data settle."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from steepest.cli.main import app
from steepest.cli.train import Runs
from steepest.cli.use import Run, Step

WIDEST = 100  # of a line


@app.command()
def ask(
    run: Run,
    question: Annotated[
        str, typer.Argument(help="In the notation of textbooks, as in the example; two values compare.")
    ],
    draws: Annotated[int, typer.Option(min=100, help="Rows drawn where the answer is not exact.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the dice.")] = 0,
    step: Step = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Ask a causal model: what is seen where something is so, and what would be if it were made so.

    Example: steepest ask run-001 "recovered | do(treatment=A|B)"
    """
    import json

    from steepest import api

    reply = api.load(run, runs=runs, step=step).ask(question, draws=draws, seed=seed)
    if as_json:
        print(json.dumps(_as_json(reply), ensure_ascii=False))
        return
    print(reply.question)
    conditions = [*reply.answers, *reply.seen]
    label = max(map(len, [*conditions, "difference"])) + 6
    cells = max([len(name) for name in reply.categories] + [len("0.0000 ± 0.0000")]) + 2
    at_once = max(1, (WIDEST - label) // cells)
    for begin in range(0, len(reply.categories), at_once):
        columns = slice(begin, begin + at_once)
        print(" " * label + "".join(f"{name:<{cells}}" for name in reply.categories[columns]).rstrip())
        for part in (reply.seen, reply.answers):
            for condition, answer in part.items():
                errors = [None] * len(answer.p) if answer.error is None else answer.error.tolist()
                told = [_figure(p, error) for p, error in zip(answer.p.tolist(), errors, strict=True)]
                print(
                    f"    {condition:<{label - 4}}"
                    + "".join(f"{each:<{cells}}" for each in told[columns]).rstrip()
                )
            if len(part) == 2:
                first, second = part.values()
                gaps = [f"{gap:+.4f}" for gap in (first.p - second.p).tolist()]
                print(
                    f"    {'difference':<{label - 4}}"
                    + "".join(f"{gap:<{cells}}" for gap in gaps[columns]).rstrip()
                )
    if any(answer.error is not None for answer in reply.answers.values()):
        print(
            f"± one standard error of {draws:,} draws; it knows nothing of how few rows the model learned from"
        )
    if reply.why:
        print(reply.why[0].upper() + reply.why[1:])
    for warning in reply.warnings:
        print(f"warning: {warning}")


@app.command()
def graph(
    file: Annotated[
        Path, typer.Argument(help='The graph: lines "cause -> effect" and "a <-> b"; DOT; dagitty.')
    ],
    table: Annotated[
        str | None, typer.Argument(help="The table it is about: CSV, TSV, JSONL, Parquet.")
    ] = None,
    missing: Annotated[
        Literal["drop", "category"] | None,
        typer.Option(help="Empty cells: leave such rows out, or make emptiness a value.  [default: refused]"),
    ] = None,
    bins: Annotated[
        int | None, typer.Option(min=2, help="Cut columns of numbers into so many quantiles.")
    ] = None,
) -> None:
    """Check a graph (against a table, if there is one) and draw it: order, causes, cells, which effects are settled.

    Example: steepest graph kidney.graph kidney.csv
    """
    from steepest.graph import effects, read_graph_file

    drawn, rows = read_graph_file(file), None
    if table is not None:
        from steepest.objectives.causal_graph import CausalGraphConfig
        from steepest.train.kinds.causal_graph import check

        drawn, rows = check(table, CausalGraphConfig(graph=str(file), missing=missing, bins=bins))
        for label, text in table_lines(drawn, rows):
            print(f"{label:<10}{text}")
    print("order     " + ", ".join(drawn.order))
    width = max(map(len, drawn.order))
    for name in drawn.order:
        parts = [", ".join(drawn.parents(name)) + f" -> {name}" if drawn.parents(name) else name]
        parts += [f"<-> {b if a == name else a}" for a, b in drawn.ties() if name in (a, b)]
        cells = ""
        if rows is not None:
            from steepest.objectives.counting import n_contexts

            cards, context = rows.schema.cards, drawn.contexts[drawn.index[name]]
            card = cards[drawn.index[name]]
            cells = f"{card} values in {n_contexts(cards, context):,.0f} contexts"
        print(f"    {name:<{width}}  {'  '.join(parts)}{'    ' + cells if cells else ''}")
    settled, refused = effects(drawn)
    print(
        f"settled   {len(settled)} of {len(settled) + len(refused)} effects of a cause on what it may change"
    )
    for _, _, why in refused:
        print(f"    {why}")


def table_lines(graph: Any, table: Any) -> list[tuple[str, str]]:
    """What a table is, in the words of the display."""
    from steepest.train.kinds.causal_graph import describe

    found = describe(graph, table)
    dropped = f", {table.dropped:,} more dropped for an empty cell" if table.dropped else ""
    edges, ties = graph.directed.number_of_edges(), len(graph.ties())
    tied = f", {ties} hidden" if ties else ""
    lines = [
        ("data", f"{found['rows']:,} rows of {found['columns']} columns{dropped}"),
        (
            "graph",
            f"{edges} edges{tied}: {found['cells']:,.0f} cells to estimate, {found['questions']:,} contexts in the rows",
        ),
    ]
    for name, cuts in table.schema.cuts.items():
        lines.append(("", f"{name} cut into {len(cuts) + 1} bins at {', '.join(f'{cut:g}' for cut in cuts)}"))
    return lines


def floor_lines(held_out: dict[str, float], carried: dict[str, list[str]]) -> list[str]:
    """Held-out figures of counting, network and both, and who carried it."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in held_out.items() if name != "blend")
    lines = [f"{held_out['blend']:.4f} nats per row held out, counts and network together; alone: {figures}"]
    floor = max(held_out["shrunk counts"], held_out["BDeu"])
    if max(floor, held_out["network"]) == floor:
        lines.append(
            "counting alone does as well as the network on this table: that is the honest answer here"
        )
    names = {"network": "the network", "counts": "counting", "both": "counts filled up by the network"}
    told = [f"{len(columns)} by {names[part]}" for part, columns in carried.items() if columns]
    lines.append(f"columns carried: {', '.join(told)}")
    return lines


def conclude(run: Any, command: Callable[[str], str]) -> None:
    """Say what a causal run reached, and how to ask it."""
    from steepest.cli.display import duration
    from steepest.graph.query import as_asked

    result, rows = run.result, len(run.kind.table)
    print(
        f"{'reached':<10}{result.metrics['log_likelihood']:.4f} nats per row held out, at {duration(result.seconds)}; the "
        f"model itself learned from all {rows:,} rows, {result.step:,} steps"
    )
    target = run.kind.graph.order[-1]
    cause = (run.kind.graph.parents(target) or run.kind.graph.order[:1])[-1]
    if cause == target:
        return  # one column alone
    value = as_asked(run.kind.table.schema.categories[run.kind.graph.index[cause]][0])
    target, cause = as_asked(target), as_asked(cause)
    print(
        f"\ngo on with\n"
        f'    {command("ask")} "{target} | {cause}={value}"         what is seen\n'
        f'    {command("ask")} "{target} | do({cause}={value})"     what would be\n'
        f"    {command('evaluate')} OTHER_ROWS"
    )


def _figure(p: float, error: float | None) -> str:
    return f"{p:.4f}" if error is None else f"{p:.4f} ± {error:.4f}"


def _as_json(reply: Any) -> dict[str, Any]:
    def told(answers: dict[str, Any]) -> dict[str, Any]:
        return {
            condition: {
                "p": dict(zip(reply.categories, answer.p.tolist(), strict=True)),
                "error": None
                if answer.error is None
                else dict(zip(reply.categories, answer.error.tolist(), strict=True)),
            }
            for condition, answer in answers.items()
        }

    return {
        "question": str(reply.question),
        "answers": told(reply.answers),
        "seen": told(reply.seen),
        "why": reply.why,
        "warnings": list(reply.warnings),
    }
