"""Texts, one after the other: the lines of a text file, or a column of a table."""

from pathlib import Path

from steepest.data.formats import missing_column, text_blocks
from steepest.data.rows import read_rows
from steepest.errors import DataError

USUAL = ("text", "sentence", "document", "query", "anchor")
TABLES = (".tsv", ".tab", ".csv", ".jsonl", ".ndjson", ".parquet")


def read_texts(path: Path | str, column: str | None = None) -> list[str]:
    """Read texts; of a table the column named, one with a usual name, or the only one.

    Raises:
        DataError: no such file or column, no text, or a table whose column is not clear.
    """
    path = Path(path)
    suffixes = [each for each in path.suffixes if each.lower() not in (".gz", ".zst")]
    if not suffixes or suffixes[-1].lower() not in TABLES:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        lines = b"".join(text_blocks(path, str(path))).decode().split("\n")
        texts = [line.rstrip("\r") for line in lines]
        if texts and not texts[-1]:
            texts.pop()
        if not texts:
            raise DataError(f"{path} is empty; give a text a line")
        return texts
    rows = read_rows(path, headers=(*USUAL, *([column] if column else [])))
    if column is None:
        lower = {name.lower(): name for name in rows.columns}
        column = next((lower[name] for name in USUAL if name in lower), None)
        if column is None and len(rows.columns) == 1:
            column = rows.columns[0]
    if column is None:
        raise DataError(
            f"{path}: which column holds the text? Its columns: {', '.join(rows.columns)}; name it with --text-column"
        )
    if column not in rows.columns:
        raise missing_column(str(path), column, rows.columns)
    return rows.column(column)
