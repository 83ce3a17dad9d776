"""Terms: what a lexical score counts in a text.

words        runs of letters and digits, whatever their case
beginnings   the first few letters of every word, so that "walks" meets "walking"
characters   n characters in a row inside a word, its borders counted: names, typing errors, compounds
pairs        two words in a row
names        words that begin with a capital letter, as they are written
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Cut = Callable[[str], list[str]]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Words, lower case.

    >>> words("The Café, again")
    ['the', 'café', 'again']
    """
    return _WORD.findall(text.casefold())


def beginnings(text: str, letters: int = 4) -> list[str]:
    """The first letters of every word.

    >>> beginnings("walking home")
    ['walk', 'home']
    """
    return [word[:letters] for word in words(text)]


def characters(text: str, n: int = 4) -> list[str]:
    """Character n-grams inside words, one blank on either side counted as part of the word.

    >>> characters("an act")
    [' an ', ' act', 'act ']
    """
    found = []
    for word in text.casefold().split():
        word = f" {word} "
        found += [word[at : at + n] for at in range(max(1, len(word) - n + 1))]
    return found


def pairs(text: str) -> list[str]:
    """Two words in a row, lower case.

    >>> pairs("New York City")
    ['new york', 'york city']
    """
    return [f"{first} {second}" for first, second in pairwise(words(text))]


def names(text: str) -> list[str]:
    """Words that begin with a capital letter.

    >>> names("The mayor of Riga, again")
    ['The', 'Riga']
    """
    return [word for word in _WORD.findall(text) if word[0].isupper()]


CUTS: dict[str, Cut] = {
    "words": words, "beginnings": beginnings, "characters": characters, "pairs": pairs, "names": names,
}  # fmt: skip


class Terms:
    """A vocabulary of terms, and sparse counts of them.

    >>> terms = Terms(words)
    >>> terms.count(["a b a"], learn=True).toarray().tolist(), terms.count(["b c"]).toarray().tolist()
    ([[2.0, 1.0]], [[0.0, 1.0]])
    """

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.numbers: dict[str, int] = {}

    def count(self, texts: Sequence[str], *, learn: bool = False) -> Any:
        """Counts of the terms of texts, sparse float32 (N, terms); unknown ones are learnt or left out."""
        from scipy.sparse import csr_matrix

        rows = [self._row(self.cut(text), learn=learn) for text in texts]
        bounds = np.cumsum([0, *map(len, rows)])
        indices = np.fromiter((key for row in rows for key in row), np.int64, int(bounds[-1]))
        data = np.fromiter((value for row in rows for value in row.values()), np.float32, int(bounds[-1]))
        return csr_matrix((data, indices, bounds), shape=(len(rows), max(1, len(self.numbers))))

    def _row(self, terms: Iterable[str], *, learn: bool) -> dict[int, float]:
        found: dict[int, float] = {}
        for term in terms:
            number = self.numbers.setdefault(term, len(self.numbers)) if learn else self.numbers.get(term)
            if number is not None:
                found[number] = found.get(number, 0.0) + 1.0
        return found
