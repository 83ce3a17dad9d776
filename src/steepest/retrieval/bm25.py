"""BM25: the lexical baseline of retrieval, in one sparse matrix.

    score(q, d) = sum over terms t of q of   idf_t * f_td (k + 1) / (f_td + k (1 - b + b |d| / mean |d|))
    idf_t       = ln(1 + (M - n_t + 1/2) / (n_t + 1/2)),          n_t: documents that hold t

All but the query is known beforehand, so a document is a sparse row of ready weights, and scoring is a product of
sparse matrices. Terms are words, lower case.

Source: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

K, B = 1.5, 0.75
_WORD = re.compile(r"\w+")


class BM25:
    """Documents, ready to be scored.

    >>> bm25 = BM25(["the cat sat", "the dog ran", "a dog and a cat"])
    >>> bm25.scores(["cat sat"])[0].argmax()
    np.int64(0)
    """

    def __init__(self, documents: Sequence[str], *, k: float = K, b: float = B) -> None:
        from scipy.sparse import csr_matrix

        self.terms: dict[str, int] = {}
        rows = [self._count(document, learn=True) for document in documents]
        shape = (len(rows), max(1, len(self.terms)))
        counts = csr_matrix(_triple(rows), shape=shape, dtype=np.float32)
        lengths = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
        holders = np.bincount(counts.indices, minlength=shape[1])
        idf = np.log(1 + (len(rows) - holders + 0.5) / (holders + 0.5)).astype(np.float32)
        norm = k * (1 - b + b * lengths / max(float(lengths.mean()) if len(rows) else 0.0, 1e-9))
        norm = np.repeat(norm, np.diff(counts.indptr))
        counts.data = idf[counts.indices] * counts.data * (k + 1) / (counts.data + norm)
        self.weights_TM = counts.T.tocsr()

    def scores(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of all documents for each query, float32 (N, M)."""
        from scipy.sparse import csr_matrix

        rows = [self._count(query, learn=False) for query in queries]
        shape = (len(rows), self.weights_TM.shape[0])
        product: Any = csr_matrix(_triple(rows), shape=shape, dtype=np.float32) @ self.weights_TM
        scores: npt.NDArray[np.float32] = product.toarray()
        return scores

    def _count(self, text: str, *, learn: bool) -> dict[int, float]:
        found: dict[int, float] = {}
        for word in _WORD.findall(text.casefold()):
            number = self.terms.setdefault(word, len(self.terms)) if learn else self.terms.get(word)
            if number is not None:
                found[number] = found.get(number, 0.0) + 1.0
        return found


def _triple(rows: Sequence[dict[int, float]]) -> tuple[Any, Any, Any]:
    """Data, indices and row bounds of a sparse matrix."""
    bounds = np.cumsum([0, *map(len, rows)])
    indices = np.fromiter((key for row in rows for key in row), np.int64, int(bounds[-1]))
    data = np.fromiter((value for row in rows for value in row.values()), np.float32, int(bounds[-1]))
    return data, indices, bounds
