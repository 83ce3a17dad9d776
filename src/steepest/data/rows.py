"""Rows of named columns, from TSV, CSV, JSON lines and Parquet (also .gz and .zst): for labels, pairs and scores.

    label <TAB> text          a TSV needs no header; without one its columns are called 1, 2, ...
    {"label": ..., "text": ...}

A TSV is split at tabs and nothing else, for in real texts a quotation mark is a quotation mark. Numbers and truth
values become text; an empty cell of JSON or Parquet becomes an empty text. Every row remembers its place.
"""

import csv
import difflib
import io
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.config import nearest
from steepest.data.formats import encode_text, missing_column, one_line, text_blocks
from steepest.errors import DataError


@dataclass(frozen=True)
class Rows:
    """A small table, read whole.

    Attributes:
        label: what messages call it.
        columns: their names; ``("1", "2", ...)`` for a TSV without a header.
        named: whether the file names its columns.
        cells: one tuple a row, as long as ``columns``.
        lines: where each row is: its line, or its number.
    """

    label: str
    columns: tuple[str, ...]
    named: bool
    cells: list[tuple[str, ...]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.cells)

    def where(self, row: int) -> str:
        """A row's place, for messages: ``train.tsv:7``."""
        return f"{self.label}:{self.lines[row]}"

    def column(self, name: str) -> list[str]:
        """One column.

        Raises:
            DataError: there is no such column; names the nearest.

        >>> Rows("a.csv", ("label", "texts"), True, [("x", "y")], [2]).column("text")
        Traceback (most recent call last):
        ...
        steepest.data.formats.NoColumnError: a.csv: no column "text"; did you mean "texts"? Its columns: label, texts; ...
        """
        if name not in self.columns:
            raise missing_column(self.label, name, self.columns)
        index = self.columns.index(name)
        return [row[index] for row in self.cells]


def read_rows(path: Path | str, *, headers: Collection[str] = ("label", "text")) -> Rows:
    """Read a table; the end of its name says how it is written.

    Args:
        headers: names a TSV's first line must hold one of, or something near, to be a header.

    Raises:
        DataError: missing, empty, not text, or a row with another number of cells than the first.
    """
    path, label = Path(path).expanduser(), str(path)
    if not path.exists():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{label}: no such file{nearest(path.name, beside)}")
    if path.is_dir():
        raise DataError(f"{label} is a directory; give a file: TSV, CSV, JSON lines or Parquet")
    suffixes = [each.lower() for each in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind in (".tsv", ".tab"):
        rows = _read_tsv(path, label, headers)
    elif kind == ".csv":
        rows = _read_csv(path, label)
    elif kind in (".jsonl", ".ndjson"):
        rows = _read_jsonl(path, label)
    elif kind == ".parquet":
        rows = _read_parquet(path, label)
    else:
        raise DataError(f"{label}: expected a name that ends in .tsv, .csv, .jsonl or .parquet")
    if not rows.cells:
        raise DataError(f"{label} is empty; give a file with some rows")
    return rows


def _read_tsv(path: Path, label: str, headers: Collection[str]) -> Rows:
    lines = [
        (number, line.rstrip("\r"))
        for number, line in enumerate(_text(path, label).split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"{label} is empty; give a file with some rows")
    first = lines[0][1].split("\t")
    named = any(_near(cell.strip().lower(), headers) for cell in first)
    columns = tuple(cell.strip() for cell in first) if named else tuple(str(i + 1) for i in range(len(first)))
    cells, numbers = [], []
    for number, line in lines[1:] if named else lines:
        row = line.split("\t")
        if len(row) != len(columns):
            raise DataError(
                f"{label}:{number}: this row has {len(row)} columns, the first one {len(columns)}; "
                "a tab divides columns, so a text may not hold one"
            )
        cells.append(tuple(row))
        numbers.append(number)
    return Rows(label, columns, named, cells, numbers)


def _read_csv(path: Path, label: str) -> Rows:
    limit = csv.field_size_limit(sys.maxsize)  # the standard 128 KiB is too small for documents
    try:
        reader = csv.reader(io.StringIO(_text(path, label), newline=""), strict=True)
        columns = tuple(cell.strip() for cell in next(reader, []))
        cells, numbers = [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise DataError(
                    f"{label}:{reader.line_num}: this row has {len(row)} columns, the header {len(columns)}; "
                    'put quotation marks around a text with commas: "..."'
                )
            cells.append(tuple(row))
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{label}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return Rows(label, columns, True, cells, numbers)


def _read_jsonl(path: Path, label: str) -> Rows:
    values: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(_text(path, label).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{label}:{number}: not JSON: {one_line(error)}; one object a line") from None
        if not isinstance(value, dict):
            raise DataError(
                f"{label}:{number}: expected an object with named values; got {type(value).__name__}"
            )
        values.append(value)
        numbers.append(number)
    return _from_dicts(label, values, numbers)


def _read_parquet(path: Path, label: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{label}: cannot be read as Parquet: {one_line(error)}") from None
    values = table.to_pylist()
    return _from_dicts(label, values, list(range(1, len(values) + 1)), table.schema.names)


def _from_dicts(
    label: str, values: Sequence[dict[str, Any]], numbers: list[int], names: Sequence[str] = ()
) -> Rows:
    columns = tuple(dict.fromkeys([*names, *(str(key) for value in values for key in value)]))
    cells = [
        tuple(_cell(value.get(name), f"{label}:{number}", name) for name in columns)
        for value, number in zip(values, numbers, strict=True)
    ]
    return Rows(label, columns, True, cells, numbers)


def _cell(value: Any, where: str, column: str) -> str:
    """A cell as text; what holds several values stays outside and is refused only when asked for."""
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return encode_text(value, where, column).decode()


def _text(path: Path, label: str) -> str:
    return b"".join(text_blocks(path, label)).decode()


def _near(cell: str, headers: Collection[str]) -> bool:
    """Whether a cell of a first line is the name of a column, or one letter off ("test" is not "text")."""
    return bool(difflib.get_close_matches(cell, list(headers), n=1, cutoff=0.8))
