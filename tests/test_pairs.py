"""Tables of pairs: read in every form, split without leaks, duplicates found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steepest.config import build
from steepest.data.pair_split import linked, split_pairs, text_numbers
from steepest.data.pairs import PairTable, read_pairs
from steepest.errors import DataError
from steepest.train.kinds import contrastive
from steepest.train.run import RunConfig


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def table(rows: list[tuple[str, ...]], form: Any = "pairs", classes: list[str] | None = None) -> PairTable:
    scores = np.arange(len(rows), dtype=float) if form == "scores" else np.zeros(0)
    return PairTable("t", form, ("1", "2"), rows, classes or [], scores)


@pytest.mark.parametrize(
    ("name", "lines", "form", "columns"),
    [
        ("a.tsv", ["what is x\tx is this", "who is y\ty is that"], "pairs", ("1", "2")),
        ("a.tsv", ["q\tp\tn1\tn2", "q2\tp2\tn3\t"], "pairs", ("1", "2", "3", "4")),
        ("a.tsv", ["4.5\ta man\ta person\tNEUTRAL", "1\ta dog\ta cat\tX"], "scores", ("1", "2", "3")),
        ("a.tsv", [f"c{at % 3}\tsome text number {at}" for at in range(30)], "classes", ("1", "2")),
        ("a.csv", ["id,positive,query", "7,b,a", "8,d,c"], "pairs", ("query", "positive")),
        (
            "a.csv",
            ["similarity,sentence1,sentence2", "0.5,a,b", "1,c,d"],
            "scores",
            ("similarity", "sentence1", "sentence2"),
        ),
        (
            "a.jsonl",
            ['{"label": "x", "text": "a b"}', '{"label": "y", "text": "c"}'],
            "classes",
            ("label", "text"),
        ),
    ],
)
def test_the_form_is_read_off_the_table(
    tmp_path: Path, name: str, lines: list[str], form: str, columns: tuple[str, ...]
) -> None:
    found = read_pairs([write(tmp_path / name, lines)])
    assert (found.form, found.columns) == (form, columns)
    assert len(found) == len(lines) - (name == "a.csv")


def test_columns_and_form_can_be_said_outright(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", [f"some words {at}\tc{at % 2}" for at in range(10)])
    found = read_pairs([path], columns=["2", "1"], form="classes")
    assert found.classes[:2] == ["c0", "c1"] and found.texts[0] == ("some words 0",)
    with pytest.raises(DataError, match="at least two columns"):
        read_pairs([path], columns=["1"])
    with pytest.raises(DataError, match="scores need 3 columns"):
        read_pairs([path], form="scores")
    other = write(tmp_path / "b.tsv", ["1\ta\tb", "2\tc\td"])
    with pytest.raises(DataError, match="must be alike"):
        read_pairs([path, other], form="auto")


def test_rows_with_an_empty_text_are_left_out_and_counted(tmp_path: Path) -> None:
    found = read_pairs([write(tmp_path / "a.tsv", ["a\tb", "\tc", "d\t ", "e\tf"])])
    assert found.texts == [("a", "b"), ("e", "f")] and found.empty == 2


def test_the_split_shares_no_text_and_stays_when_rows_are_added() -> None:
    rows = [(f"q{at}", f"d{at // 2}") for at in range(400)]  # two questions an answer
    split = split_pairs(table(rows), 0.1)
    sides = [{text for row in part.texts for text in row} for part in (split.train, split.held_out)]
    assert not sides[0] & sides[1] and split.how == "shared texts"
    assert len(split.train) + len(split.held_out) == 400 and 36 <= len(split.held_out) <= 44
    more = split_pairs(table([*rows, ("new", "newer")]), 0.1)
    assert len(set(more.held_out.texts) ^ set(split.held_out.texts)) <= 3


def test_whole_classes_are_held_out_where_there_are_many() -> None:
    rows = [(f"text {at}",) for at in range(300)]
    many = split_pairs(table(rows, "classes", [f"c{at % 30}" for at in range(300)]), 0.1)
    assert not set(many.train.classes) & set(many.held_out.classes) and many.how == "whole classes"
    few = split_pairs(table(rows, "classes", [f"c{at % 3}" for at in range(300)]), 0.1)
    assert set(few.held_out.classes) <= set(few.train.classes) and few.how == "equal rows"


def test_duplicates_go_and_what_is_judged_on_is_not_trained_on() -> None:
    rows = [*((f"q{at}", f"d{at}") for at in range(50)), ("Q7", "d7  "), ("q8", "d8")]
    test = table([("q3", "D3"), ("elsewhere", "d4")])
    split = split_pairs(table(rows), 0.1, others=[test])
    assert split.duplicates == 2 and split.leaked == 1 and split.removed
    assert ("q3", "d3") not in [*split.train.texts, *split.held_out.texts]
    kept = split_pairs(table(rows), 0.1, others=[test], remove_leaks=False)
    assert kept.leaked == 1 and not kept.removed and len(kept.train) + len(kept.held_out) == 50
    with pytest.raises(DataError, match="nothing is left to learn from"):
        split_pairs(table(rows[:2]), 0.1, others=[table(rows)])


def test_linked_rows_by_brute_force() -> None:
    dice = np.random.default_rng(0)
    texts = dice.integers(0, 30, (40, 2)) + np.array([0, 100])
    groups = linked(texts)
    reach = (texts[:, None] == texts[None]).any(2)
    for _ in range(6):
        reach = reach @ reach
    np.testing.assert_array_equal(groups[:, None] == groups[None], reach)
    assert text_numbers(table([("a", "B"), ("b", "")])).tolist() == [[1, 2], [2, -1]]


def test_tables_of_one_run_may_name_their_columns_differently_also_when_read_again(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("anchor,positive\n" + "".join(f"question {n},answer {n}\n" for n in range(40)))
    test.write_text("question,answer\n" + "".join(f"another {n},reply {n}\n" for n in range(8)))
    given = build(
        RunConfig,
        {"data": {"sources": [str(train)]}, "objective": {"kind": "contrastive", "test": str(test)}},
    )
    _, _, first = contrastive._read(given)
    assert first is not None and first.texts[0] == ("another 0", "reply 0")
    kept = given.replace(
        objective=given.objective.replace(columns=["anchor", "positive"])
    )  # as run.toml has it
    assert contrastive._read(kept)[2].texts == first.texts
