"""Views of a text as a bag: which n-grams it holds, each weighted by TF-IDF.

    x_j = (1 + ln count_j) * (1 + ln((1 + N) / (1 + n_j))),     every view scaled to length 1

    words        one and two words in a row, whatever their case
    characters   2 to 5 characters in a row inside a word, or anywhere where texts have no words
    beginnings   which word stands where, from the start and from the end: questions are told by how they begin
    positions    which 1 to 3 characters stand where, for sequences of one length: sites in DNA, codes

Shapes: N texts, F features. Source: K. Spärck Jones, "A statistical interpretation of term specificity", 1972.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.errors import DataError

FEW = 2000  # texts, below which a term that only one has is kept too
SAMPLE = 2000  # texts looked at to decide which views suit them
LONGEST_ALIGNED = 512  # characters of sequences whose positions are features
SPREAD = 0.02  # of lengths, up to which sequences count as aligned
WORDS_A_TEXT = 1.5  # on average, below which texts are single strings

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class View:
    """One way to cut texts into terms, with what was learnt of the terms.

    Attributes:
        name: of ``CUTS``.
        terms: in order of their columns.
        idf: float32 (F,).
    """

    name: str
    terms: list[str]
    idf: npt.NDArray[np.float32]

    def transform(self, texts: Sequence[str]) -> Any:
        """Texts as a sparse float32 matrix (N, F) with rows of length 1 (0 for a text without a known term)."""
        from scipy import sparse

        vectorizer = _vectorizer(self.name, vocabulary={term: at for at, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf
        if len(texts) == 0:
            return sparse.csr_matrix((0, len(self.terms)), dtype=np.float32)
        return vectorizer.transform(texts)


@dataclass(frozen=True)
class Bag:
    """Texts as some views see them.

    Attributes:
        matrices: sparse float32 (N, F), one a view.
        seconds: it took to make each.
    """

    views: tuple[View, ...]
    matrices: tuple[Any, ...]
    seconds: tuple[float, ...]

    @property
    def matrix(self) -> Any:
        """All views side by side."""
        from scipy import sparse

        return sparse.hstack(self.matrices).tocsr()

    def select(self, name: str) -> "Bag":
        """One view alone."""
        at = [view.name for view in self.views].index(name)
        return Bag((self.views[at],), (self.matrices[at],), (self.seconds[at],))

    def extend(self, texts: Sequence[str]) -> "Bag":
        """More texts below, by the terms that are known."""
        from scipy import sparse

        below = [view.transform(texts) for view in self.views]
        both = (sparse.vstack(pair).tocsr() for pair in zip(self.matrices, below, strict=True))
        return Bag(self.views, tuple(both), self.seconds)


def make_bag(names: Sequence[str], texts: Sequence[str]) -> Bag:
    """Learn the terms of some views from texts; a view that finds no term in any is left out.

    >>> bag = make_bag(["words"], ["to be", "not to be"])
    >>> bag.views[0].terms, bag.matrix.shape
    (['be', 'not', 'not to', 'to', 'to be'], (2, 5))
    """
    found: list[tuple[View, Any, float]] = []
    for name in names:
        began = time.perf_counter()
        vectorizer = _vectorizer(name, min_df=1 if len(texts) < FEW else CUTS[name].least)
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:  # scikit-learn's answer to an empty vocabulary
            continue
        terms = [str(term) for term in vectorizer.get_feature_names_out()]
        view = View(name, terms, vectorizer.idf_.astype(np.float32))
        found.append((view, matrix, time.perf_counter() - began))
    if not found:
        raise DataError("the texts hold no letter or digit: there is nothing to tell them apart by")
    views, matrices, seconds = zip(*found, strict=True)
    return Bag(views, matrices, seconds)


def transform(views: Sequence[View], texts: Sequence[str]) -> Any:
    """Texts as one sparse matrix, the views side by side."""
    from scipy import sparse

    return sparse.hstack([view.transform(texts) for view in views]).tocsr()


def suitable_views(texts: Sequence[str]) -> list[str]:
    """The views that can say something of these texts.

    >>> suitable_views(["what is this", "who are you then"])
    ['words', 'characters', 'beginnings']
    >>> suitable_views(["ACGT", "TTGA"] * 10), suitable_views(["Smith", "Wu"])
    (['strings', 'positions'], ['strings', 'characters'])
    """
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    lengths = np.array([len(text) for text in sample])
    if np.mean([len(text.split()) for text in sample]) >= WORDS_A_TEXT:
        return ["words", "characters", "beginnings"]
    aligned = lengths.max() <= LONGEST_ALIGNED and lengths.std() <= SPREAD * max(lengths.mean(), 1)
    return ["strings", "positions" if aligned and lengths.mean() > 3 else "characters"]


def word_beginnings(text: str, first: int = 6, last: int = 3) -> Iterator[str]:
    """Words with their places.

    >>> list(word_beginnings("Who is it?", first=2, last=1))
    ['+0 who', '+1 is', '-0 ?']
    """
    words = _WORD.findall(text.lower())
    yield from (f"+{at} {word}" for at, word in enumerate(words[:first]))
    yield from (f"-{at} {word}" for at, word in enumerate(words[: -last - 1 : -1]))


def character_positions(text: str, longest: int = 3) -> Iterator[str]:
    """Characters, and two and three in a row, with their places.

    >>> list(character_positions("AC", longest=2))
    ['0 A', '1 C', '0 AC']
    """
    for n in range(1, longest + 1):
        yield from (f"{at} {text[at : at + n]}" for at in range(min(len(text), LONGEST_ALIGNED) - n + 1))


@dataclass(frozen=True)
class Cut:
    """How a view cuts a text: arguments of scikit-learn's vectorizer, and the least texts a term must be in."""

    options: dict[str, Any]
    least: int = 2


def _listed(cut: Callable[[str], Iterator[str]]) -> Callable[[str], list[str]]:
    return lambda text: list(cut(text))


CUTS: dict[str, Cut] = {
    "words": Cut({"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}, least=1),
    "characters": Cut({"analyzer": "char_wb", "ngram_range": (2, 5)}),
    "strings": Cut({"analyzer": "char", "ngram_range": (1, 5), "lowercase": False}),
    "beginnings": Cut({"analyzer": _listed(word_beginnings)}),
    "positions": Cut({"analyzer": _listed(character_positions)}),
}


def _vectorizer(name: str, **more: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **CUTS[name].options, **more)
