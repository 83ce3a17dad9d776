"""Which rows of a table of pairs train and which are held out, with nothing of the one in the other.

A row is held out if the hash of its *family* is below the wanted share. A family is what must stay together:

    pairs     rows linked by a shared text, however indirectly; where that would link most of the table, equal rows
    classes   a whole class, so that one is judged on classes never seen; where there are few, equal texts
    scores    equal rows

So the same row falls on the same side whatever stands around it, and no duplicate leaks. What is to be judged on
by other tables is looked for in the training rows as well: said, and removed.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.data.pairs import Ints, PairTable
from steepest.errors import DataError

FEWEST_CLASSES = 20  # below this many, classes are seen in training too
LARGEST_FAMILY = 0.2  # of the rows, above which families by shared text are given up
WANTED_ROWS = 500  # held out, where 5% would be fewer
LARGEST_SHARE = 0.2  # of the rows, for that


@dataclass(frozen=True)
class PairSplit:
    """What became of a table.

    Attributes:
        train: rows to learn from.
        held_out: rows to be judged on.
        how: "shared texts", "whole classes" or "equal rows".
        duplicates: rows left out, for an earlier one is the same.
        leaked: training rows that are also in the others.
        removed: whether those were removed.
        share: of the rows, that was to be held out.
    """

    train: PairTable
    held_out: PairTable
    how: str
    duplicates: int
    leaked: int
    removed: bool
    share: float


def split_pairs(
    table: PairTable, share: float | None, *, others: Sequence[PairTable] = (), remove_leaks: bool = True
) -> PairSplit:
    """Split a table, duplicates of rows and of the test left out.

    Args:
        share: of the rows to hold out; ``None``: 5%, or more of a small table.
        others: tables that are judged on: rows to choose by, a test.
        remove_leaks: whether training rows that are in those are removed.

    Raises:
        DataError: nothing is left to learn from or to be judged on.
    """
    keys = table.row_keys()
    first: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    distinct = np.array(sorted(first.values()), dtype=np.int64)
    if len(distinct) < 2:
        raise DataError(
            f"{table.label}: all {len(table):,} rows are the same; there is nothing to tell apart"
        )
    seen = {key for other in others for key in other.row_keys()}
    leaks = np.array([keys[row] in seen for row in distinct], dtype=bool)
    kept = distinct[~leaks] if remove_leaks else distinct
    if not len(kept):
        raise DataError(
            f"{table.label}: every row is also in what is to be judged on; nothing is left to learn from"
        )
    families, how = _families(table.take(kept))
    if share is None:
        share = max(0.05, min(LARGEST_SHARE, WANTED_ROWS / len(kept)))
    held_out = _below(families, share)
    split = PairSplit(
        table.take(kept[~held_out]), table.take(kept[held_out]), how, len(table) - len(distinct),
        int(leaks.sum()), remove_leaks and bool(leaks.any()), share,
    )  # fmt: skip
    _check(split, share)
    return split


def text_numbers(table: PairTable) -> Ints:
    """A number for every distinct text of a table, int64 (N, K): equal texts, equal numbers; an empty one is -1."""
    numbers: dict[str, int] = {"": -1}
    found = [[numbers.setdefault(text, len(numbers)) for text in row] for row in table.row_keys()]
    return np.array(found, dtype=np.int64).reshape(len(table), table.width)


def linked(texts_NK: Ints) -> Ints:
    """Which rows are linked by a shared anchor or a shared positive, as group numbers, int64 (N,).

    >>> linked(np.array([[0, 1], [2, 3], [4, 3], [0, 5]])).tolist()
    [0, 1, 1, 0]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(texts_NK)
    columns = [np.unique(texts_NK[:, k], return_inverse=True)[1] for k in range(min(2, texts_NK.shape[1]))]
    offset, rows, places = n, [], []
    for column in columns:
        rows.append(np.arange(n))
        places.append(column + offset)
        offset += int(column.max(initial=-1)) + 1
    edges = (np.ones(len(columns) * n, bool), (np.concatenate(rows), np.concatenate(places)))
    labels = connected_components(coo_matrix(edges, shape=(offset, offset)), directed=False)[1][:n]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def class_numbers(classes: list[str]) -> Ints:
    """A number for every class, in order of their names."""
    return np.unique(np.array(classes, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def _families(table: PairTable) -> tuple[list[str], str]:
    """A text that names each row's family."""
    if table.form == "classes" and len(set(table.classes)) >= FEWEST_CLASSES:
        return table.classes, "whole classes"
    keys = ["\t".join(key) for key in table.row_keys()]
    if table.form == "pairs":
        groups = linked(text_numbers(table))
        if np.bincount(groups).max() <= max(1, LARGEST_FAMILY * len(table)):
            names: dict[int, str] = {}
            for group, key in zip(groups.tolist(), keys, strict=True):
                names[group] = min(key, names.get(group, key))
            return [names[group] for group in groups.tolist()], "shared texts"
    return keys, "equal rows"


def _below(families: list[str], share: float) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Rows of the families with the lowest hashes, until the share is reached."""
    if share <= 0:
        return np.zeros(len(families), dtype=bool)
    sizes = Counter(families)
    ranked = sorted(sizes, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    chosen, wanted = set(), share * len(families)
    total = 0
    for name in ranked:
        if total >= wanted:
            break
        chosen.add(name)
        total += sizes[name]
    return np.array([name in chosen for name in families], dtype=bool)


def _check(split: PairSplit, share: float) -> None:
    train, held_out = split.train, split.held_out
    if not len(train):
        raise DataError(
            f"{train.label}: nothing is left to learn from after duplicates and the held-out part; give more distinct rows"
        )
    if train.form == "classes":
        counts = Counter(train.classes)
        if len(counts) < 2:
            raise DataError(
                f'{train.label}: only one class to learn from, "{next(iter(counts))}"; give at least two'
            )
        if max(counts.values()) < 2:
            raise DataError(f"{train.label}: every class has one text only; nothing belongs together")
    elif train.form == "pairs":
        for place, name in enumerate(train.columns[:2]):
            if len({key[place] for key in train.row_keys()}) < 2:
                raise DataError(
                    f'{train.label}: all rows share one text in column "{name}"; nothing to tell apart'
                )
    elif len(np.unique(train.scores)) < 2:
        raise DataError(f"{train.label}: all scores are {train.scores[0]:g}; there is no order to learn")
    if share > 0 and len(held_out) < 2:
        raise DataError(
            f"{train.label}: {len(train) + len(held_out)} distinct rows are too few to hold out {share:.0%}; "
            "give more rows, or set data.validation to 0"
        )
