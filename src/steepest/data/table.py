"""A table of categories as discrete sequences: every cell is one of its column's few values.

    stone,treatment,recovered          columns     categories                codes
    small,A,yes                        stone       large, small              1 0 1
    large,B,no                         ...                                   0 1 0

Categories are sorted: numbers by size, all else by the alphabet. Nothing is guessed: an empty cell is refused unless
the rows that have one are to be dropped or emptiness is to be a category of its own, and a column of numbers is cut
into quantiles only if bins are asked for.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from steepest.config import nearest
from steepest.data.rows import Rows, read_rows
from steepest.errors import DataError

Codes = npt.NDArray[np.int64]
Missing = Literal["drop", "category"]

MOST_VALUES = 1000
EMPTY = frozenset({"", "na", "n/a", "nan", "null"})  # in any case of letters
EMPTY_CATEGORY = "(missing)"


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are; without its rows.

    Attributes:
        columns: names, in the order of the codes.
        categories: of each column, the name of every code.
        cuts: of each binned column, the inner edges of its bins.
        missing: what is done with empty cells.
    """

    columns: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    cuts: dict[str, list[float]] = field(default_factory=dict)
    missing: Missing | None = None

    @property
    def cards(self) -> tuple[int, ...]:
        """How many categories each column has."""
        return tuple(map(len, self.categories))

    def code(self, column: str, value: str) -> int | None:
        """The code of a value, a number of a binned column among them; ``None`` if it was never seen."""
        names = self.categories[self.columns.index(column)]
        if value in names:
            return names.index(value)
        if column in self.cuts and (number := _number(value)) is not None:
            return int(np.searchsorted(self.cuts[column], number, side="right"))
        return None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From plain values."""
        return cls(
            tuple(values["columns"]),
            tuple(tuple(names) for names in values["categories"]),
            dict(values["cuts"]),
            values["missing"],
        )


@dataclass(frozen=True)
class Table:
    """A schema and its rows.

    Attributes:
        codes: one row a row of the table, one column a column of the schema.
        dropped: rows left out for an empty cell.
    """

    schema: Schema
    codes: Codes
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def ordered(self, names: Sequence[str]) -> "Table":
        """The same table with its columns in another order."""
        old = self.schema
        places = [old.columns.index(name) for name in names]
        categories = tuple(old.categories[place] for place in places)
        schema = Schema(tuple(names), categories, old.cuts, old.missing)
        return Table(schema, self.codes[:, places], self.dropped)


def read_table(
    path: Path | str,
    *,
    missing: Missing | None = None,
    bins: int | None = None,
    columns: Sequence[str] | None = None,
) -> Table:
    """Read a table: CSV, TSV, JSON lines or Parquet with named columns.

    Args:
        missing: leave rows with an empty cell out ("drop") or make emptiness a category; ``None`` refuses them.
        bins: cut columns of numbers with more distinct values than that into so many quantiles.
        columns: read only these, in this order.

    Raises:
        DataError: no such file, unequal rows, an empty cell (with its place), a column with too many values.
    """
    rows = read_rows(path, headers=columns or ())
    names = _names(rows) if columns is None else list(columns)
    cells = [rows.column(name) for name in names]
    cells, dropped = _settle_empty(rows, names, cells, missing)
    categories, codes, cuts = [], [], {}
    for name, column in zip(names, cells, strict=True):
        edges = _quantiles(column, bins) if bins else None
        if edges is not None:
            cuts[name] = edges
            column = _binned(column, edges)
        known = _sorted(set(column), edges)
        if len(known) > MOST_VALUES:
            raise DataError(
                f'{rows.label}: column "{name}" has {len(known):,} values, more than {MOST_VALUES:,}: is it an id or '
                "a number? take an id out of the table; cut numbers into quantiles with --bins 8"
            )
        place = {value: code for code, value in enumerate(known)}
        categories.append(tuple(known))
        codes.append(np.array([place[value] for value in column], dtype=np.int64))
    return Table(Schema(tuple(names), tuple(categories), cuts, missing), np.stack(codes, axis=1), dropped)


def encode_table(path: Path | str, schema: Schema) -> Table:
    """Read other rows of the same table.

    Raises:
        DataError: as ``read_table``, and a category the schema does not know.
    """
    rows = read_rows(path, headers=schema.columns)
    cells = [rows.column(name) for name in schema.columns]
    cells, dropped = _settle_empty(rows, list(schema.columns), cells, schema.missing)
    codes = np.zeros((len(cells[0]), len(cells)), dtype=np.int64)
    for index, (name, column) in enumerate(zip(schema.columns, cells, strict=True)):
        for value in set(column):
            code = schema.code(name, value)
            if code is None:
                known = schema.categories[index]
                raise DataError(
                    f'{rows.label}: column "{name}" has the value "{value}", which was never seen in training'
                    f"{nearest(value, known)}; known: {listed(known)}"
                )
            codes[np.array([each == value for each in column]), index] = code
    return Table(schema, codes, dropped)


def save_table(table: Table, folder: Path, extra: Mapping[str, Any]) -> None:
    """Keep a table, and some more plain values, in a folder: ``table.json`` and ``table.safetensors``."""
    from safetensors.numpy import save_file

    small = np.int16 if max(table.schema.cards) < 2**15 else np.int64
    save_file({"codes": np.ascontiguousarray(table.codes.astype(small))}, folder / "table.safetensors")
    values = {"schema": table.schema.to_json(), "dropped": table.dropped, **extra}
    (folder / "table.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")


def load_table(folder: Path) -> tuple[Table, dict[str, Any]]:
    """What ``save_table`` kept.

    Raises:
        DataError: the files are not there, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        values = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        codes = load_file(folder / "table.safetensors")["codes"].astype(np.int64)
        return Table(Schema.from_json(values["schema"]), codes, values["dropped"]), values
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder}: the table of this run cannot be read: {error}") from None


def listed(names: Sequence[str], most: int = 12) -> str:
    """Some names for a message.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _names(rows: Rows) -> list[str]:
    names = list(rows.columns)
    if not rows.named:
        raise DataError(f"{rows.label}: its first line names no columns; put their names there")
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            said = "has no name" if not name else f'is called "{name}", like one before it'
            raise DataError(f"{rows.label}: column {index + 1} {said}; give every column a name of its own")
    return names


def _settle_empty(
    rows: Rows, names: list[str], cells: list[list[str]], missing: Missing | None
) -> tuple[list[list[str]], int]:
    empty = np.array([[value.strip().lower() in EMPTY for value in column] for column in cells])
    if not empty.any():
        return cells, 0
    if missing == "category":
        return [
            [EMPTY_CATEGORY if gone else value for value, gone in zip(column, holes, strict=True)]
            for column, holes in zip(cells, empty.tolist(), strict=True)
        ], 0
    lost = np.asarray(empty.any(axis=0))
    if missing is None:
        row = int(np.argmax(lost))
        name = names[int(np.argmax(empty[:, row]))]
        count = int(lost.sum())
        raise DataError(
            f'{rows.where(row)}: column "{name}" is empty ({count} of {len(rows)} rows have an empty cell); leave '
            "such rows out with --missing drop, or make emptiness a value of its own with --missing category"
        )
    if lost.all():
        raise DataError(
            f"{rows.label}: every row has an empty cell: --missing drop leaves none; use category"
        )
    kept = [
        [value for value, gone in zip(column, lost.tolist(), strict=True) if not gone] for column in cells
    ]
    return kept, int(lost.sum())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _quantiles(column: Sequence[str], bins: int) -> list[float] | None:
    """Inner edges of the bins of a column of numbers with many distinct values; otherwise ``None``."""
    numbers = [_number(value) for value in column if value != EMPTY_CATEGORY]
    found = [number for number in numbers if number is not None]
    if len(found) < len(numbers) or len(set(found)) <= bins:
        return None
    return sorted(set(np.quantile(found, np.arange(1, bins) / bins, method="higher").tolist()) - {min(found)})


def _binned(column: Sequence[str], edges: Sequence[float]) -> list[str]:
    """Each number's bin by name: below 20, 20 to below 50, 50 and more."""
    names = bin_names(edges)
    return [
        value if value == EMPTY_CATEGORY else names[int(np.searchsorted(edges, float(value), side="right"))]
        for value in column
    ]


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of the bins between some edges.

    >>> bin_names([20, 50.5]), bin_names([20240108, 20240115])
    (['<20', '20..50.5', '>=50.5'], ['<20240108', '20240108..20240115', '>=20240115'])
    """
    if not edges:
        return ["any"]
    told = [f"{edge:g}" for edge in edges]
    if len(set(told)) < len(told):  # six digits do not tell them apart
        told = [f"{edge:.17g}" for edge in edges]
    return [f"<{told[0]}", *(f"{a}..{b}" for a, b in itertools.pairwise(told)), f">={told[-1]}"]


def _sorted(values: set[str], edges: Sequence[float] | None) -> list[str]:
    """Numbers by size, all else by the alphabet, emptiness last; every bin, in order."""
    if edges is not None:
        return bin_names(edges) + ([EMPTY_CATEGORY] if EMPTY_CATEGORY in values else [])
    rest = values - {EMPTY_CATEGORY}
    numbers = {value: _number(value) for value in rest}
    by_size = all(number is not None for number in numbers.values())
    ordered = sorted(rest, key=lambda value: (numbers[value] if by_size else 0, value))
    return ordered + ([EMPTY_CATEGORY] if EMPTY_CATEGORY in values else [])
