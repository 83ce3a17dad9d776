"""Labelled data: columns are found or asked for, splits do not leak, batches are a pure function of the step."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from labelled_texts import lexical_rows, write_tsv
from steepest.data.labelled import (
    EncodedRows,
    Labelled,
    LabelledBatches,
    read_labelled,
    read_texts,
)
from steepest.data.labelled_split import key_of, split_labelled
from steepest.data.padding import RaggedIds
from steepest.errors import DataError

ROWS = [("pos", "good film"), ("neg", "bad, bad film"), ("pos", 'a "fine" one')]


def write(path: Path, kind: str) -> Path:
    path = path / f"rows.{kind}"
    if kind == "tsv":
        write_tsv(path, ROWS)
    elif kind == "csv":
        lines = ['"{}","{}"'.format(text.replace('"', '""'), label) for label, text in ROWS]
        path.write_text("\n".join(["sentence,label", *lines]))
    elif kind == "jsonl":
        path.write_text(
            "\n".join(json.dumps({"text": text, "intent": label, "id": 1}) for label, text in ROWS)
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        labels, texts = zip(*ROWS, strict=True)
        pq.write_table(pa.table({"label": list(labels), "text": list(texts)}), path)
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = read_labelled(write(tmp_path, kind))
    assert list(zip(rows.labels, rows.texts, strict=True)) == ROWS


def test_columns_by_name_and_the_nearest_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("review,stars,when\nfine,5,today\npoor,1,today\n")
    rows = read_labelled(path, text_column="review", label_column="stars")
    assert (rows.texts, rows.labels) == (["fine", "poor"], ["5", "1"])
    with pytest.raises(DataError, match=r'no column "star"; did you mean "stars".*--label-column'):
        read_labelled(path, text_column="review", label_column="star")
    with pytest.raises(DataError, match=r"which column is the text.*review, stars, when"):
        read_labelled(path, label_column="stars")


def test_of_two_columns_without_names_the_label_has_fewer_values(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [(text, label) for label, text in lexical_rows(20)])
    assert set(read_labelled(path).labels) <= {"cat", "dog", "owl"}
    assert read_texts(path) == [text for _, text in lexical_rows(20)]


def test_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    (tmp_path / "lines.csv").write_text("text\none\ntwo\n")
    assert read_texts(tmp_path / "lines.txt") == read_texts(tmp_path / "lines.csv") == ["one", "two"]


def labelled(rows: list[tuple[str, str]]) -> Labelled:
    return Labelled([text for _, text in rows], [label for label, _ in rows])


def test_what_is_held_out_is_held_out_with_all_its_copies() -> None:
    rows = lexical_rows(300)
    rows += [(label, text.upper() + "  ") for label, text in rows[:150]]
    split = split_labelled(labelled(rows), share=0.1)
    keys = [{key_of(text) for text in part.texts} for part in (split.train, split.development)]
    assert not keys[0] & keys[1]
    assert len(split.train) + len(split.development) == len(rows)
    assert 0.08 < len(split.development) / len(rows) < 0.15
    whole, held = Counter(label for label, _ in rows), Counter(split.development.labels)
    assert all(0.07 < held[label] / whole[label] < 0.16 for label in whole)


def test_copies_of_test_rows_are_taken_out_of_training_and_said() -> None:
    train = [*lexical_rows(50), ("cat", "The  COPY")]
    test = labelled([("dog", "the copy")])
    split = split_labelled(labelled(train), test=test)
    assert "The  COPY" not in split.train.texts + split.development.texts
    assert any("1 texts to train on are also in the test part: taken out" in note for note in split.notes)
    kept = split_labelled(labelled(train), test=test, keep_leaks=True)
    assert "The  COPY" in kept.train.texts + kept.development.texts
    assert any("left in" in note for note in kept.notes)


def test_rare_classes_keep_a_row_to_train_on() -> None:
    rows = [*lexical_rows(100), ("rare", "once only"), *[("copies", "same text")] * 5]
    split = split_labelled(labelled(rows), share=0.5)
    assert {"rare", "copies"} <= set(split.train.labels)
    assert any("one text only" in note and '"rare"' in note for note in split.notes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "x"), ("a", "y")], 'all 2 texts are of one class, "a"'),
        ([("a", " "), ("b", "")], "every text is empty.*--text-column"),
    ],
)
def test_what_cannot_be_learnt_from_is_said_in_one_line(rows: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        split_labelled(labelled(rows))
    assert "\n" not in str(caught.value)


def test_empty_texts_conflicts_and_unknown_classes_are_said() -> None:
    rows = [*lexical_rows(60), ("cat", ""), ("cat", "twice"), ("dog", "twice")]
    split = split_labelled(labelled(rows), development=labelled([("emu", "a bird")]))
    told = " ".join(split.notes)
    assert "1 texts are empty" in told and "1 texts stand there with several labels" in told
    assert '1 classes of the development part are not in training and count as wrong: "emu"' in told


def encoded(n: int = 50) -> EncodedRows:
    dice = np.random.default_rng(0)
    ids = RaggedIds.join(np.full(dice.integers(1, 9), row) for row in range(n))
    return EncodedRows(ids, np.arange(n) % 3, dice.normal(size=(n, 3)).astype(np.float32))


def test_an_epoch_has_every_row_once_with_its_label_and_offset() -> None:
    rows = encoded()
    batches = LabelledBatches(rows, context=6, batch=8, seed=3, fill=99, fingerprint="")
    seen = []
    for step in range(batches.a_epoch):
        batch = batches.at(step)
        number = batch.ids_BT[:, 0]
        assert torch.equal(batch.labels_B, number % 3)
        assert torch.equal(batch.offset_BC, torch.from_numpy(rows.offset_NC)[number])
        assert batch.lengths_B.max() <= 6 and (batch.ids_BT[batch.lengths_B.max() < 0] == 99).all()
        seen += number.tolist()
    assert sorted(seen) == list(range(50))
    assert batches.at(0).ids_BT[:, 0].tolist() != batches.at(batches.a_epoch).ids_BT[:, 0].tolist()
    parts = batches.at(1).split(3)
    assert sum(part.n_targets for part in parts) == batches.at(1).n_targets


def test_another_sequence_is_refused() -> None:
    one, other = (
        LabelledBatches(encoded(), context=6, batch=8, seed=seed, fill=9, fingerprint="f") for seed in (0, 1)
    )
    with pytest.raises(DataError, match="has seed 0, this run has 1"):
        other.load_state_dict(one.state_dict())


def test_small_classes_have_texts_to_choose_by_or_it_is_said() -> None:
    rows = [(f"class {number}", f"text {number} {copy}") for number in range(40) for copy in range(5)]
    split = split_labelled(labelled(rows), share=0.1)
    assert len(split.development) == 40
    for share in (0.0, 0.05):
        with pytest.raises(DataError, match="holds out no text to choose by"):
            split_labelled(labelled(rows), share=share)


def test_lines_are_what_line_feeds_divide_also_when_packed(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("one\u2028still one\r\n\ntwo\x0cstill two\n".encode())
    assert read_texts(path) == ["one\u2028still one", "", "two\x0cstill two"]
    packed = tmp_path / "rows.tsv.gz"
    packed.write_bytes(gzip.compress(b"label\ttext\na\tone\nb\ttwo\n"))
    assert read_texts(packed) == ["one", "two"]
    table = tmp_path / "rows.csv"
    table.write_text('label,text\na,one\u2028still one\nb,"two\nlines"\n', encoding="utf-8")
    assert read_labelled(table).texts == ["one\u2028still one", "two\nlines"]
