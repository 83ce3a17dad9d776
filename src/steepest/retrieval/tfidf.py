"""TF-IDF cosines: of all queries with all documents (a baseline, by scikit-learn), and of texts side by side.

x_t = (1 + ln f_t) (1 + ln((1 + N) / (1 + n_t))),  scaled to length 1;      score = x . y
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.errors import ConfigError
from steepest.retrieval.terms import Cut, Terms

Floats = npt.NDArray[np.float32]


def character_tfidf(
    queries: Sequence[str], documents: Sequence[str], fitted_on: Sequence[str] | None = None
) -> tuple[Any, Any]:
    """Queries (N, T) and documents (M, T) as sparse unit vectors of 3 to 5 characters inside words.

    Args:
        fitted_on: whose IDF is taken; the documents' if ``None``.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise ConfigError(
            "the character TF-IDF baseline needs scikit-learn: pip install scikit-learn"
        ) from None
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    vectorizer.fit(documents if fitted_on is None else fitted_on)
    return vectorizer.transform(queries), vectorizer.transform(documents)


def paired_cosines(
    left: Sequence[str], right: Sequence[str], *, cut: Cut, background: Sequence[str]
) -> Floats:
    """TF-IDF cosine of each left text with its right one, float32 (N,).

    Args:
        cut: what counts as a term.
        background: texts whose IDF is taken.

    >>> from steepest.retrieval.terms import words
    >>> paired_cosines(["a b", "a"], ["b a", "c"], cut=words, background=["a b", "a c"]).round(3).tolist()
    [1.0, 0.0]
    """
    terms = Terms(cut)
    terms.count([*left, *right], learn=True)
    counts = terms.count(background)
    holders = np.bincount(counts.indices, minlength=len(terms.numbers) or 1)
    idf = (1 + np.log((1 + len(background)) / (1 + holders))).astype(np.float32)
    x, y = (_unit(terms.count(texts), idf) for texts in (left, right))
    return np.asarray(x.multiply(y).sum(axis=1), dtype=np.float32).ravel()


def _unit(counts: Any, idf: Floats) -> Any:
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    counts.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(counts.indptr))
    return counts
