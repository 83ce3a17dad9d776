"""Points from what people have: a CSV or TSV with a header, JSON lines, a JSON list, or a folder of run folders.

Columns go by their usual names (`NAMES`), whatever their case, spaces or hyphens. Counts may be written as "1.5B".
Without a column of tokens, one of compute will do: D = C / (6 N). Every refusal names the row and the column.
"""

import csv
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.config import parse_count
from steepest.errors import ConfigError, DataError
from steepest.scaling.laws import FLOPS
from steepest.scaling.points import Points

NAMES: dict[str, tuple[str, ...]] = {
    "n": ("n", "params", "parameters", "n_params", "num_params", "n_parameters", "matrix_parameters", "model_size",
          "non_embedding_params", "n_noembed", "size"),
    "d": ("d", "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen", "data"),
    "loss": ("loss", "bits_per_byte", "bpb", "val_loss", "validation_loss", "valid_loss", "eval_loss", "test_loss",
             "held_out", "held_out_loss", "final_loss", "nll"),
    "compute": ("c", "compute", "flops", "flop", "budget", "total_flops", "training_flop"),
    "unique": ("u", "unique", "unique_tokens", "n_unique", "unique_data"),
}  # fmt: skip
TOLD = {"n": "parameters", "d": "tokens", "loss": "loss", "compute": "compute", "unique": "unique tokens"}


@dataclass(frozen=True)
class Table:
    """Points, and what their loss is called."""

    points: Points
    loss: str


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read a table of runs.

    Args:
        path: a file, or a folder whose folders are finished runs of steepest.
        columns: names of columns where the usual ones do not serve, by "n", "d", "loss", "compute", "unique".
    """
    if path.is_dir():
        return _read_runs(path)
    if not path.is_file():
        raise DataError(f"{path}: no such table; give a CSV, a JSON-lines file or a folder of runs")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text file that can be read: {error}") from None
    rows = _rows(path, text)
    if not rows:
        raise DataError(f"{path}: a header and no rows; a law needs at least 4 runs")
    return points_from_rows(rows, columns, str(path))


def points_from_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None, where: str = "table"
) -> Table:
    """Points from rows with named cells.

    >>> rows = [{"Params": "1M", "Tokens": "20M", "Loss": 4.0}, {"Params": "2M", "Tokens": "40M", "Loss": 3.7}]
    >>> points_from_rows(rows).points.d.tolist()
    [20000000.0, 40000000.0]
    """
    have = {_plain(str(key)): str(key) for row in rows for key in row}
    found = {key: name for key in NAMES if (name := _column(key, columns or {}, have, where)) is not None}
    for key in ("n", "loss"):
        if key not in found:
            raise _missing(key, have, where)
    if "d" not in found and "compute" not in found:
        raise _missing("d", have, where)
    taken = {
        key: [_number(row.get(name), name, i, where) for i, row in enumerate(rows)]
        for key, name in found.items()
    }
    tokens = taken.get("d") or [c / FLOPS / n for c, n in zip(taken["compute"], taken["n"], strict=True)]
    names = [f"{where}, row {i + 1}" for i in range(len(rows))]
    points = Points.of(taken["n"], tokens, taken["loss"], unique=taken.get("unique"), names=names)
    return Table(points, found["loss"])


def _rows(path: Path, text: str) -> list[Mapping[str, Any]]:
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        try:
            if text.lstrip().startswith("["):
                rows = json.loads(text)
            else:
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise DataError(f"{path}: not JSON: {error}; one object a line, or a list of objects") from None
        if not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path}: every line of a table of runs is an object with the columns' names")
        return list(rows)
    first = text.split("\n", 1)[0]
    separator = max(",\t;", key=first.count)
    return list(csv.DictReader(text.splitlines(), delimiter=separator))


def _column(key: str, given: Mapping[str, str], have: Mapping[str, str], where: str) -> str | None:
    if key in given:
        name = have.get(_plain(given[key]))
        if name is None:
            raise DataError(f'{where}: no column "{given[key]}"; there are {", ".join(have.values())}')
        return name
    return next((have[name] for name in NAMES[key] if name in have), None)


def _missing(key: str, have: Mapping[str, str], where: str) -> DataError:
    usual = ", ".join(NAMES[key][:5])
    also = ", or of compute" if key == "d" else ""
    return DataError(
        f"{where}: no column of {TOLD[key]}{also}; usual names are {usual}; there are "
        f"{', '.join(have.values())}: name it with --{TOLD[key].split()[0]}"
    )


def _number(cell: Any, name: str, row: int, where: str) -> float:
    told = f"{where}, row {row + 1}: {name}"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise DataError(f"{told} is missing; fill it in or leave the row out")
    if isinstance(cell, str):
        try:
            return float(cell)
        except ValueError:
            pass
        try:
            return float(parse_count(cell))
        except ConfigError:
            raise DataError(f'{told} is "{cell}"; expected a number such as 2.5, 3e7 or 30M') from None
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise DataError(f"{told} is {cell!r}; expected a number")
    return float(cell)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _read_runs(root: Path) -> Table:
    """Finished runs: matrix parameters and tokens in the data from plan.json, tokens and losses from result.json."""
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    sources: dict[tuple[str, ...], str] = {}
    for path in sorted(root.glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            plan = json.loads((path.parent / "plan.json").read_text(encoding="utf-8"))
            config = tomllib.loads((path.parent / "run.toml").read_text(encoding="utf-8"))
            row = {"n": plan["matrix_parameters"], "d": result["tokens"], **result["held_out"]}
            unique = plan["tokens"] / plan["epochs"]
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue
        if "loss" not in row:
            continue
        sources.setdefault(tuple(config.get("data", {}).get("sources", ())), path.parent.name)
        rows.append({**row, "unique": min(unique, row["d"])})
        names.append(path.parent.name)
    if not rows:
        raise DataError(
            f"{root}: no finished run with a held-out loss in it; expected folders with run.toml, plan.json and "
            "result.json, as steepest train makes them"
        )
    if len(sources) > 1:
        (one, first), (two, second) = list(sources.items())[:2]
        raise DataError(
            f"{root}: runs of different data follow different laws: {first} learned {', '.join(one)}, {second} "
            f"{', '.join(two)}; put the runs of one data set into a folder of their own"
        )
    unit = "bits_per_byte" if all("bits_per_byte" in row for row in rows) else "loss"
    points = Points.of(
        [row["n"] for row in rows], [row["d"] for row in rows], [row[unit] for row in rows],
        unique=[row["unique"] for row in rows], names=names,
    )  # fmt: skip
    return Table(points, unit)
