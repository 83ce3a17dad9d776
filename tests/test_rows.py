"""Tables read whole: the same rows from every format, and one clear line for each thing that is wrong."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from steepest.data.rows import read_rows
from steepest.errors import DataError

ROWS = [("a", 'he said "no", twice'), ("b", "naïve café 🐚"), ("a", "")]


def write(path: Path, kind: str) -> Path:
    path = path.with_suffix(f".{kind}")
    if kind == "tsv":
        path.write_text("".join(f"{label}\t{text}\n" for label, text in [("label", "text"), *ROWS]))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("label", "text"), *ROWS])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"label": a, "text": b}) + "\n" for a, b in ROWS))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"label": [a for a, _ in ROWS], "text": [b for _, b in ROWS]}), path)
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = read_rows(write(tmp_path / "table", kind))
    assert rows.named and rows.columns == ("label", "text")
    assert rows.cells == ROWS
    assert rows.column("text") == [text for _, text in ROWS]


def test_tsv_without_header_and_packed(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("3.5\tone text\tanother\n1\tthis\tthat\n")
    rows = read_rows(path)
    assert not rows.named and rows.columns == ("1", "2", "3")
    assert rows.cells[1] == ("1", "this", "that") and rows.where(1).endswith("rows.tsv.gz:2")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "label\ttext\nx\n", "a.tsv:2: this row has 1 columns, the first one 2"),
        ("a.csv", "label,text\nx,y,z\n", "this row has 3 columns, the header 2"),
        ("a.jsonl", '{"label": 1}\n[2]\n', "a.jsonl:2: expected an object"),
        ("a.jsonl", '{"label": \n', "a.jsonl:1: not JSON"),
        ("a.tsv", "\n", "is empty"),
        ("a.txt", "x\ty\n", "a name that ends in .tsv"),
        ("a.parquet", "no", "cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said.replace("[", r"\[")):
        read_rows(tmp_path / name)


def test_missing_file_and_column_name_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "table", "csv")
    with pytest.raises(DataError, match=r'no such file; did you mean "table\.csv"'):
        read_rows(tmp_path / "tabel.csv")
    with pytest.raises(DataError, match='did you mean "text"'):
        read_rows(tmp_path / "table.csv").column("txet")
    with pytest.raises(DataError, match="is a directory"):
        read_rows(tmp_path)
