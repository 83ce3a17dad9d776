"""Tables of categories: what is read, what is cut into bins, and what is refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest

from steepest.data.table import Schema, encode_table, load_table, read_table, save_table
from steepest.errors import DataError


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_categories_are_sorted_and_rows_are_codes(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "size,kind\n10,b\n9,a\n10,a\n-1.5,b\n"))
    assert table.schema.columns == ("size", "kind")
    assert table.schema.categories == (("-1.5", "9", "10"), ("a", "b"))  # numbers by size
    assert table.codes.tolist() == [[2, 1], [1, 0], [2, 0], [0, 1]]
    turned = table.ordered(["kind", "size"])
    assert turned.codes.tolist() == [[1, 2], [0, 1], [0, 2], [1, 0]] and turned.schema.cards == (2, 3)
    same = read_table(write(tmp_path, '{"size": 10, "kind": "b"}\n{"size": 9, "kind": "a"}\n', "t.jsonl"))
    assert same.codes.tolist() == [[1, 1], [0, 0]]


def test_numbers_are_cut_into_quantiles_only_if_asked(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    numbers = dice.normal(size=1200).round(6)
    path = write(tmp_path, "x,y\n" + "\n".join(f"{x},{int(x > 0)}" for x in numbers))
    with pytest.raises(DataError, match=r't.csv: column "x" has 1,\d+ values, more than 1,000: .* --bins 8'):
        read_table(path)
    table = read_table(path, bins=4)
    assert table.schema.cards == (4, 2) and list(table.schema.cuts) == ["x"]  # y has two values: left alone
    assert np.bincount(table.codes[:, 0]).tolist() == [300] * 4
    assert all((table.codes[numbers < cut, 0] <= k).all() for k, cut in enumerate(table.schema.cuts["x"]))
    assert table.schema.code("x", "-100") == 0 and table.schema.code("x", "100") == 3
    assert (
        table.schema.code("x", table.schema.categories[0][1]) == 1 and table.schema.code("x", "blue") is None
    )


@pytest.mark.parametrize("empty", ["", "NA", "nan", " ", "null"])
def test_empty_cells_are_refused_dropped_or_a_category(tmp_path: Path, empty: str) -> None:
    path = write(tmp_path, f"a,b\n1,x\n2,{empty}\n3,y\n{empty},y\n")
    with pytest.raises(
        DataError, match=r't.csv:3: column "b" is empty \(2 of 4 rows .* --missing drop.* category'
    ):
        read_table(path)
    dropped = read_table(path, missing="drop")
    assert (
        len(dropped) == 2 and dropped.dropped == 2 and dropped.schema.categories == (("1", "3"), ("x", "y"))
    )
    kept = read_table(path, missing="category")
    assert kept.schema.categories == (("1", "2", "3", "(missing)"), ("x", "y", "(missing)"))
    assert kept.codes.tolist() == [[0, 0], [1, 2], [2, 1], [3, 1]]
    with pytest.raises(DataError, match="every row has an empty cell"):
        read_table(write(tmp_path, f"a,b\n{empty},x\n2,{empty}\n"), missing="drop")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,a\n1,2\n", 't.csv: column 2 is called "a", like one before it'),
        ("a,\n1,2\n", "t.csv: column 2 has no name"),
        ("a,b\n1\n", r"t.csv:2: this row has 1 columns, the header 2"),
        ("a,b\n", "t.csv is empty"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_table(write(tmp_path, text))


def test_other_rows_are_read_by_the_same_schema(tmp_path: Path) -> None:
    schema = read_table(write(tmp_path, "a,b\nx,1\ny,2\n")).schema
    table = encode_table(write(tmp_path, "b,extra,a\n2,?,x\n1,?,x\n"), schema)
    assert table.codes.tolist() == [[0, 1], [0, 0]]
    with pytest.raises(DataError, match=r'column "b" has the value "3", which was never seen .* known: 1, 2'):
        encode_table(write(tmp_path, "a,b\nx,3\n"), schema)
    with pytest.raises(DataError, match='no column "b"'):
        encode_table(write(tmp_path, "a,c\nx,3\n"), schema)


def test_a_kept_table_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n" + "\n".join(f"{i / 7},{i % 3}" for i in range(50)))
    table = read_table(path, bins=5)
    save_table(table, tmp_path, {"note": "é"})
    again, values = load_table(tmp_path)
    assert again.schema == table.schema and (again.codes == table.codes).all() and values["note"] == "é"
    assert Schema.from_json(table.schema.to_json()) == table.schema
    (tmp_path / "table.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="the table of this run cannot be read"):
        load_table(tmp_path)
