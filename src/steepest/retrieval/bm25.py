"""BM25: the lexical baseline of retrieval, in one sparse matrix.

    score(q, d) = sum over terms t of q of   idf_t * f_td (k + 1) / (f_td + k (1 - b + b |d| / mean |d|))
    idf_t       = ln(1 + (M - n_t + 1/2) / (n_t + 1/2)),          n_t: documents that hold t

All but the query is known beforehand, so a document is a sparse row of ready weights, and scoring is a product of
sparse matrices. Other texts of the same kind (``background``) may help to tell which terms are rare.

Source: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.retrieval.terms import Cut, Terms, words

K, B = 1.5, 0.75


class BM25:
    """Documents, ready to be scored.

    Args:
        documents: the candidates.
        cut: what counts as a term.
        background: texts that are no candidates, but count for the IDF.

    >>> bm25 = BM25(["the cat sat", "the dog ran", "a dog and a cat"])
    >>> bm25.scores(["cat sat"])[0].argmax()
    np.int64(0)
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        cut: Cut = words,
        background: Sequence[str] = (),
        k: float = K,
        b: float = B,
    ) -> None:
        self.terms = Terms(cut)
        counts = self.terms.count(documents, learn=True)
        n, size = len(documents) + len(background), counts.shape[1]
        holders = np.bincount(counts.indices, minlength=size)
        if background:
            holders += np.bincount(self.terms.count(background).indices, minlength=size)
        lengths = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
        idf = np.log(1 + (n - holders + 0.5) / (holders + 0.5)).astype(np.float32)
        norm = k * (1 - b + b * lengths / max(float(lengths.mean()) if len(documents) else 0.0, 1e-9))
        norm = np.repeat(norm, np.diff(counts.indptr))
        counts.data = idf[counts.indices] * counts.data * (k + 1) / (counts.data + norm)
        self.weights_TM = counts.T.tocsr()

    def count(self, queries: Sequence[str]) -> Any:
        """The terms of queries, sparse (N, T), to be scored once or often."""
        return self.terms.count(queries)

    def scores_of(self, counts_NT: Any) -> npt.NDArray[np.float32]:
        """Scores of all documents for counted queries, float32 (N, M)."""
        scores: npt.NDArray[np.float32] = (counts_NT @ self.weights_TM).toarray()
        return scores

    def scores(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of all documents for each query, float32 (N, M)."""
        return self.scores_of(self.count(queries))
