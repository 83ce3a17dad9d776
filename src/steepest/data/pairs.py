"""Texts that belong together, read from a table: pairs, classes, or pairs with a score of how alike they are.

    pairs     anchor, positive[, negative ...]       title and description, sentence and translation
    classes   class, text                            texts of one class belong together
    scores    score, left, right                     how alike two texts are, on any scale

The form is read off the columns' names, and where they have none off what is in them: a first column of numbers
before two of texts holds scores, one of few and short values that repeat holds classes. ``columns`` and ``form`` say
it outright. Rows with an empty text are left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steepest.config import nearest
from steepest.data.formats import NoColumnError
from steepest.data.labelled_split import key_of
from steepest.data.rows import Rows, read_rows
from steepest.errors import DataError

Form = Literal["pairs", "classes", "scores"]
Ints = npt.NDArray[np.int64]

CLASS_NAMES = ("class", "label", "category", "intent", "topic", "template")
SCORE_NAMES = ("score", "similarity", "relatedness", "gold")
TEXT_NAMES = ("text", "sentence", "document", "line")
ANCHOR_NAMES = ("anchor", "query", "question", "title", "source", "left", "sentence1", "text1", "premise")
POSITIVE_NAMES = (
    "positive", "answer", "passage", "description", "target", "right", "sentence2", "text2", "hypothesis",
)  # fmt: skip
NEGATIVE = "negative"
HEADERS = (*CLASS_NAMES, *SCORE_NAMES, *TEXT_NAMES, *ANCHOR_NAMES, *POSITIVE_NAMES, NEGATIVE)

CLASS_LENGTH = 40  # characters of a class's name, on average at most
CLASS_SHARE = 0.25  # distinct values of a column of classes, as a share of the rows, at most


@dataclass(frozen=True)
class PairTable:
    """Rows of texts that belong together.

    Attributes:
        label: where they are from.
        form: what a row is.
        columns: the columns taken, in order of their roles.
        texts: one tuple a row: anchor, positive, negatives; or the text alone; or left and right.
        classes: the class of each row, for classes only.
        scores: float64 (N,), for scores only.
        empty: rows left out because a text was empty.
    """

    label: str
    form: Form
    columns: tuple[str, ...]
    texts: list[tuple[str, ...]]
    classes: list[str]
    scores: npt.NDArray[np.float64]
    empty: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def width(self) -> int:
        """Texts of a row."""
        return len(self.texts[0]) if self.texts else 1

    def take(self, rows: Sequence[int] | Ints) -> "PairTable":
        """Some of the rows, in the order given."""
        return PairTable(
            self.label, self.form, self.columns, [self.texts[row] for row in rows],
            [self.classes[row] for row in rows] if self.classes else [],
            self.scores[np.asarray(rows, dtype=np.int64)] if len(self.scores) else self.scores, self.empty,
        )  # fmt: skip

    def row_keys(self) -> list[tuple[str, ...]]:
        """What makes two rows the same: their texts, whatever their case and spacing."""
        return [tuple(key_of(text) for text in row) for row in self.texts]


def read_pairs(
    paths: Sequence[str], *, columns: Sequence[str] = (), form: Form | Literal["auto"] = "auto"
) -> PairTable:
    """Read one or more tables of one form.

    Args:
        paths: TSV, CSV, JSON lines or Parquet.
        columns: names of the columns to take, in order of their roles; "1", "2" ... where they have none.
        form: what they hold; read off the table if "auto".

    Raises:
        DataError: a column that is missing or does not suit; says where.
    """
    if not paths:
        raise DataError("contrastive learning needs a table of pairs: give a TSV, CSV, JSON lines or Parquet")
    tables = [_table(read_rows(path, headers=HEADERS), columns, form) for path in paths]
    first = tables[0]
    for other in tables[1:]:
        if (other.form, other.width) != (first.form, first.width):
            raise DataError(
                f"{other.label} holds {other.form} with {other.width} texts a row, {first.label} {first.form} "
                f"with {first.width}; tables that are read together must be alike"
            )
    return PairTable(
        ", ".join(table.label for table in tables), first.form, first.columns,
        [row for table in tables for row in table.texts], [c for table in tables for c in table.classes],
        np.concatenate([table.scores for table in tables]), sum(table.empty for table in tables),
    )  # fmt: skip


def recognise(rows: Rows, columns: Sequence[str] = (), form: str = "auto") -> tuple[Form, tuple[str, ...]]:
    """The form of a table, and its columns in order of their roles.

    >>> rows = Rows("a", ("1", "2", "3"), False, [("3.5", "a b", "c d"), ("1", "e", "f")], [1, 2])
    >>> recognise(rows)
    ('scores', ('1', '2', '3'))
    >>> recognise(Rows("a", ("Anchor", "id", "positive"), True, [("x", "7", "y")], [2]))
    ('pairs', ('Anchor', 'positive'))
    """
    for name in columns:
        if name not in rows.columns:
            raise NoColumnError(
                f'{rows.label}: no column "{name}"{nearest(name, rows.columns) or "."} '
                f"Its columns: {', '.join(rows.columns[:12])}; name them in objective.columns"
            )
    chosen = tuple(columns) or (_by_name(rows, form) if rows.named else ()) or rows.columns
    if len(chosen) < 2:
        raise DataError(
            f"{rows.label}: expected at least two columns (anchor and positive, class and text, or score and two "
            f"texts); got {len(chosen)}: {', '.join(chosen) or 'none'}"
        )
    if form == "auto":
        form = _form_of(rows, chosen)
    least = 3 if form == "scores" else 2
    if len(chosen) < least:
        raise DataError(f"{rows.label}: {form} need {least} columns; got {len(chosen)}: {', '.join(chosen)}")
    known: Form = "classes" if form == "classes" else "scores" if form == "scores" else "pairs"
    return known, chosen if known == "pairs" else chosen[:least]


def _by_name(rows: Rows, form: str) -> tuple[str, ...]:
    """Columns by the names that people use; nothing if they are not such names."""

    def first(names: Sequence[str]) -> str | None:
        return next((c for name in names for c in rows.columns if c.lower() == name), None)

    anchor, positive = first(ANCHOR_NAMES), first(POSITIVE_NAMES)
    score, kind, text = first(SCORE_NAMES), first(CLASS_NAMES), first(TEXT_NAMES)
    if anchor and positive:
        if score and form in ("auto", "scores"):
            return (score, anchor, positive)
        return (anchor, positive, *(c for c in rows.columns if c.lower().startswith(NEGATIVE)))
    if kind and text and form in ("auto", "classes"):
        return (kind, text)
    return ()


def _form_of(rows: Rows, columns: tuple[str, ...]) -> Form:
    first = rows.column(columns[0])
    name = columns[0].lower()
    if len(columns) >= 3 and (name in SCORE_NAMES or all(_number(cell) is not None for cell in first)):
        return "scores"
    if len(columns) == 2 and (name in CLASS_NAMES or _looks_like_classes(first, rows.column(columns[1]))):
        return "classes"
    return "pairs"


def _looks_like_classes(first: list[str], second: list[str]) -> bool:
    distinct = len(set(first))
    short = sum(map(len, first)) <= CLASS_LENGTH * len(first)
    return short and distinct <= CLASS_SHARE * len(first) and 2 * distinct <= len(set(second))


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _table(rows: Rows, columns: Sequence[str], form: str) -> PairTable:
    kind, chosen = recognise(rows, columns, form)
    taken = [rows.column(name) for name in chosen]
    texts = list(zip(*(taken[1:] if kind != "pairs" else taken), strict=True))
    # An empty negative only means that a row has fewer of them.
    whole = [at for at, row in enumerate(texts) if all(text.strip() for text in row[:2])]
    scores = np.zeros(0)
    if kind == "scores":
        numbers = [_number(cell) for cell in taken[0]]
        for at, number in enumerate(numbers):
            if number is None:
                raise DataError(
                    f'{rows.where(at)}: column "{chosen[0]}" should hold a score, a number; got "{taken[0][at][:40]}"'
                )
        scores = np.array(numbers, dtype=np.float64)[whole]
    if not whole:
        raise DataError(f"{rows.label}: every row has an empty text in {', '.join(chosen)}; nothing to learn")
    return PairTable(
        rows.label, kind, chosen, [texts[at] for at in whole],
        [taken[0][at] for at in whole] if kind == "classes" else [], scores, len(texts) - len(whole),
    )  # fmt: skip
