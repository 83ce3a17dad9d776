"""Labelled rows parted into training and development, without leaks.

Equal texts (but for case and white space) never stand on both sides of a split: what the development or test part
holds is taken out of training, and a development part that is split off takes all copies of a text or none. Every
class keeps a row to train on.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.data.labelled import Labelled
from steepest.data.padding import Ints
from steepest.errors import DataError

DEVELOPMENT_ROWS = 300  # wanted to choose by


def key_of(text: str) -> str:
    """What makes two texts the same: all but case and white space.

    >>> key_of("Who is  it?") == key_of("who is it? ")
    True
    """
    return " ".join(text.lower().split())


def hashes_of(texts: Sequence[str]) -> Ints:
    """64 bits of each text, the same for texts that are the same."""
    digests = [hashlib.blake2b(key_of(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


@dataclass(frozen=True)
class LabelledSplit:
    """Training and development rows, and what was done to part them.

    Attributes:
        notes: in words, for people: what was taken out and why.
        given: whether the development part is a file of its own.
        share: of the rows that was split off, otherwise.
    """

    train: Labelled
    development: Labelled
    names: tuple[str, ...]
    notes: list[str]
    given: bool
    share: float


def development_share(rows: int) -> float:
    """A tenth; of few rows more, so that there are some hundreds to choose by, up to a quarter.

    >>> [development_share(rows) for rows in (100, 2000, 50_000)]
    [0.25, 0.15, 0.1]
    """
    return round(min(max(0.1, DEVELOPMENT_ROWS / max(rows, 1)), 0.25), 4)


def split_labelled(
    train: Labelled,
    *,
    development: Labelled | None = None,
    test: Labelled | None = None,
    share: float | None = None,
    keep_leaks: bool = False,
    where: str = "the data",
) -> LabelledSplit:
    """Part labelled rows into training and development, without leaks.

    Args:
        development: rows of their own; a ``share`` of the training rows is split off if ``None``.
        share: see ``development_share``, if ``None``.
        test: rows that training must not have seen.
        keep_leaks: leave copies of development and test rows in training, but say so.

    Raises:
        DataError: one class only, nothing but empty texts, or no row left.
    """
    notes: list[str] = []
    others = {"the test part": test, "the development part": development}
    kept = np.ones(len(train), dtype=bool)
    keys = [key_of(text) for text in train.texts]
    for name, other in others.items():
        if other is None:
            continue
        seen = {key_of(text) for text in other.texts}
        shared = np.array([key in seen for key in keys], dtype=bool)
        if shared.any():
            what = "left in (keep_leaks)" if keep_leaks else "taken out of training"
            notes.append(f"{shared.sum():,} texts to train on are also in {name}: {what}")
            if not keep_leaks:
                kept &= ~shared
    train = train.take(np.flatnonzero(kept))
    counts = Counter(train.labels)
    names = tuple(sorted(counts))
    _check(train, counts, where, notes)
    notes += _conflicts(train)
    given = development is not None
    share = development_share(len(train)) if share is None else share
    if development is None:
        train, development = _split_off(train, counts, share)
    if not len(development):
        raise DataError(
            f"{where}: a share of {share:g} holds out no text to choose by, for no class has texts enough; give rows of their own "
            "with --dev, or a larger data.validation"
        )
    unknown = sorted(set(development.labels) - set(names))
    if unknown:
        notes.append(
            f"{len(unknown)} classes of the development part are not in training and count as wrong: {_few(unknown)}"
        )
    return LabelledSplit(train, development, names, notes, given, share)


def _check(train: Labelled, counts: Counter[str], where: str, notes: list[str]) -> None:
    if not len(train):
        raise DataError(f"{where}: no row is left to train on: all its texts are in the other parts")
    if len(counts) < 2:
        raise DataError(
            f'{where}: all {len(train):,} texts are of one class, "{next(iter(counts))}"; classification needs two'
        )
    empty = sum(not text.strip() for text in train.texts)
    if empty == len(train):
        raise DataError(f"{where}: every text is empty; is it the right column? Choose with --text-column")
    if empty:
        notes.append(f"{empty:,} texts are empty; they are kept, as texts without a word")
    single = sorted(name for name, count in counts.items() if count == 1)
    if single:
        notes.append(
            f"{len(single)} classes have one text only, which trains and cannot be judged: {_few(single)}"
        )


def _conflicts(train: Labelled) -> list[str]:
    labels: dict[str, set[str]] = {}
    for text, label in zip(train.texts, train.labels, strict=True):
        labels.setdefault(key_of(text), set()).add(label)
    count = sum(len(found) > 1 for found in labels.values())
    return (
        [f"{count:,} texts stand there with several labels: no model can have all of them right"]
        if count
        else []
    )


def _split_off(train: Labelled, counts: Counter[str], share: float) -> tuple[Labelled, Labelled]:
    """Hold out a share of every class, texts in the order of a hash; copies of a text go together."""
    keys = [key_of(text) for text in train.texts]
    hashes = hashes_of(train.texts)
    held: set[str] = set()
    taken: Counter[str] = Counter()
    for row in sorted(range(len(train)), key=lambda row: hashes[row]):
        label, key = train.labels[row], keys[row]
        # By halves, so that a class of 5 gives one row at a share of 0.1.
        if key in held or (
            taken[label] < math.floor(share * counts[label] + 0.5) and taken[label] + 1 < counts[label]
        ):
            held.add(key)
            taken[label] += 1
    inside = np.array([key in held for key in keys], dtype=bool)
    for label in counts:  # copies may have taken all of a class
        rows = [row for row in range(len(train)) if train.labels[row] == label]
        if all(inside[row] for row in rows):
            inside[[row for row in range(len(train)) if keys[row] == keys[rows[0]]]] = False
    return train.take(np.flatnonzero(~inside)), train.take(np.flatnonzero(inside))


def _few(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names[:5]) + (" ..." if len(names) > 5 else "")


def numbers_of(rows: Labelled, names: Sequence[str]) -> Ints:
    """Labels as numbers; what training did not have counts up from the number of classes.

    >>> numbers_of(Labelled(["", "", ""], ["b", "emu", "a"]), ["a", "b"]).tolist()
    [1, 2, 0]
    """
    known = {name: at for at, name in enumerate(names)}
    for label in sorted(set(rows.labels) - set(known)):
        known[label] = len(known)
    return np.array([known[label] for label in rows.labels], dtype=np.int64)


def fingerprint_of(split: LabelledSplit) -> str:
    """SHA-256 of all its texts and labels, in order."""
    digest = hashlib.sha256()
    for rows in (split.train, split.development):
        for text, label in zip(rows.texts, rows.labels, strict=True):
            digest.update(f"{label}\t{text}\n".encode())
        digest.update(b"\0")
    return digest.hexdigest()
