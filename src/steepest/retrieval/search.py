"""Exact search: all scores of a query, the best k; the same fused score that a run was judged by.

Nothing approximate and no index on disk: a product of matrices over some hundred thousand texts takes milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.retrieval.bm25 import BM25
from steepest.retrieval.fusion import fuse
from steepest.retrieval.ranks import top_k
from steepest.retrieval.terms import CUTS
from steepest.retrieval.truth import K1, VIEWS, B


@dataclass(frozen=True)
class Hit:
    """One text found.

    Attributes:
        place: its number in the corpus.
        score: what it was sorted by.
        cosine: of the embeddings alone.
    """

    place: int
    score: float
    cosine: float
    text: str


class Corpus:
    """Texts to search in.

    Args:
        texts: the candidates.
        z_MD: their embeddings, of length one.
        weights_V: of the cosine and the lexical scores.

    >>> corpus = Corpus(["a cat", "a dog"], torch.eye(2), torch.tensor([1.0] + [0.0] * len(VIEWS)))
    >>> [hit.text for hit in corpus.search("dog", torch.tensor([0.0, 1.0]), 1)]
    ['a dog']
    """

    def __init__(self, texts: Sequence[str], z_MD: Tensor, weights_V: Tensor) -> None:
        self.texts, self.z_MD, self.weights_V = list(texts), z_MD, weights_V
        self.indexes = [
            BM25(self.texts, cut=CUTS[name], k=K1, b=B) if float(weight) > 0 else None
            for name, weight in zip(VIEWS, weights_V[1:], strict=True)
        ]

    def search(self, query: str, z_D: Tensor, k: int = 10) -> list[Hit]:
        """The ``k`` best texts for a query and its embedding, best first."""
        cosine_M = self.z_MD @ z_D
        scores = [cosine_M] + [
            torch.zeros_like(cosine_M) if index is None else torch.from_numpy(index.scores([query])[0])
            for index in self.indexes
        ]
        found = top_k(fuse(scores, self.weights_V), k)
        return [Hit(place, score, float(cosine_M[place]), self.texts[place]) for place, score in found]
