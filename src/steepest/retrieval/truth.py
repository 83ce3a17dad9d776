"""Truth: held-out texts, which of them belong together, and what lexical scores say of them.

    pairs     find each anchor's positive among all distinct positives (and negatives)
    classes   find a text of the same class among all the other texts
    scores    put pairs in order of how alike they are

``judge`` takes embeddings of the rows and gives the figures: of the fused score, which is what ``search`` sorts by,
and of the embedding alone. Scores are made for some queries at a time, so that nothing is held for all pairs.

Shapes: N rows, K texts a row, D width, M candidates, V scores (the cosine first).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.data.pair_split import class_numbers, text_numbers
from steepest.data.pairs import Ints, PairTable
from steepest.retrieval.bm25 import BM25
from steepest.retrieval.fusion import fit_ranking, fit_scores, fuse
from steepest.retrieval.ranks import map_at_r_in, rank_values, ranks_in
from steepest.retrieval.terms import CUTS
from steepest.retrieval.tfidf import paired_cosines

VIEWS = tuple(CUTS)  # the lexical scores that are fused
QUERIES_AT_ONCE = 512
FIT_QUERIES = 400  # that choose the weights
K1, B = 1.2, 0.5  # of BM25 where it is fused: short texts


@dataclass(frozen=True)
class Judged:
    """What was found of held-out rows.

    Attributes:
        ranks_N: of each query, for ranking; empty for scores.
        map_N: MAP@R of each query, for classes; empty without. A text alone in its class is no query.
        fused_N: the score of each row, for scores; empty for ranking.
    """

    ranks_N: Tensor
    map_N: Tensor
    fused_N: Tensor

    def values(self, name: str) -> Tensor:
        """What each query adds to a metric of ranks, float64 (N,)."""
        return self.map_N if name == "map@r" else rank_values(self.ranks_N, name)


@dataclass
class Truth:
    """Held-out rows and what is right.

    Attributes:
        table: the rows.
        background: texts that help to tell which terms are rare: those to train on.
        development: these rows may choose what is fitted on held-out rows.
        encoded: the same rows as token ids, where a loss of them is wanted.
    """

    table: PairTable
    background: Sequence[str] = ()
    development: bool = True
    encoded: Any = None

    # -- what is looked for ---------------------------------------------------------------------------

    @cached_property
    def queries(self) -> list[str]:
        """The texts that look for others."""
        return [row[0] for row in self.table.texts]

    @cached_property
    def documents(self) -> list[str]:
        """The candidates: each distinct text once, but for classes, where every text is one."""
        if self.table.form == "classes":
            return self.queries
        return [self._flat[place] for place in self._first.tolist()]

    @cached_property
    def places(self) -> Ints:
        """Where in the rows' texts, counted row by row, each candidate stands, int64 (M,)."""
        if self.table.form == "classes":
            return np.arange(len(self.table), dtype=np.int64)
        k = self.table.width
        return self._first // (k - 1) * k + 1 + self._first % (k - 1)

    @cached_property
    def _flat(self) -> list[str]:
        return [text for row in self.table.texts for text in row[1:]]

    @cached_property
    def _first(self) -> Ints:
        numbers = text_numbers(self.table)[:, 1:].ravel()
        _, first = np.unique(numbers, return_index=True)
        return np.sort(first[numbers[first] >= 0]).astype(np.int64)

    @cached_property
    def _right(self) -> Any:
        """Which candidates are right for each query, sparse boolean (N, M); for pairs."""
        from scipy.sparse import csr_matrix

        numbers = text_numbers(self.table)
        at = {number: m for m, number in enumerate(numbers[:, 1:].ravel()[self._first].tolist())}
        own = np.array([at[number] for number in numbers[:, 1].tolist()], dtype=np.int64)
        anchors = np.unique(numbers[:, 0], return_inverse=True)[1]
        ones, n = np.ones(len(own), np.float32), int(anchors.max()) + 1
        by_anchor = csr_matrix((ones, (anchors, own)), shape=(n, len(self.documents)))
        return by_anchor[anchors]

    @cached_property
    def _classes(self) -> Tensor:
        return torch.from_numpy(class_numbers(self.table.classes))

    # -- scores ---------------------------------------------------------------------------------------

    @cached_property
    def _indexes(self) -> list[tuple[BM25, Any]]:
        """Each view's index of the candidates, and the queries counted in its terms."""
        found = []
        for name in VIEWS:
            index = BM25(self.documents, cut=CUTS[name], background=self.background, k=K1, b=B)
            found.append((index, index.count(self.queries)))
        return found

    @cached_property
    def paired(self) -> list[Tensor]:
        """Lexical cosines of each row's two texts, V - 1 of (N,); for scores."""
        left, right = ([row[side] for row in self.table.texts] for side in (0, 1))
        background = list(self.background) or [*left, *right]
        return [
            torch.from_numpy(paired_cosines(left, right, cut=CUTS[name], background=background))
            for name in VIEWS
        ]

    def blocks(
        self, score: Callable[[Ints], list[Tensor]], rows: Ints | None = None
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Scores, V of (n, M), and what is right, (n, M), for some queries at a time.

        Args:
            score: the scores of some queries, by their numbers.
        """
        rows = np.arange(len(self.table), dtype=np.int64) if rows is None else rows
        for at in range(0, len(rows), QUERIES_AT_ONCE):
            part = rows[at : at + QUERIES_AT_ONCE]
            scores = score(part)
            yield scores, self._mark(part, scores)

    def scores_of(self, z_BD: Tensor, *, lexical: bool = True) -> Callable[[Ints], list[Tensor]]:
        """The cosine and the lexical scores of some queries, (n, M) each."""
        candidates_MD, queries_ND = z_BD[torch.from_numpy(self.places)], z_BD[:: self.table.width]

        def score(rows: Ints) -> list[Tensor]:
            scores = [queries_ND[torch.from_numpy(rows)] @ candidates_MD.T]
            if lexical:
                scores += [torch.from_numpy(index.scores_of(counts[rows])) for index, counts in self._indexes]
            return scores

        return score

    def _mark(self, part: Ints, scores: list[Tensor]) -> Tensor:
        if self.table.form == "pairs":
            return torch.from_numpy(self._right[part].toarray() > 0)
        own = torch.from_numpy(part)[:, None]
        for score in scores:
            score.scatter_(1, own, -torch.inf)  # a text does not find itself
        return (self._classes[own] == self._classes[None]).scatter(1, own, False)

    # -- judging --------------------------------------------------------------------------------------

    def fit(self, z_BD: Tensor, metric: str) -> Tensor:
        """Weights of the cosine and of the lexical scores, float64 (V,), chosen on these rows."""
        if self.table.form == "scores":
            cosine_N = torch.linalg.vecdot(z_BD[::2], z_BD[1::2])
            return fit_scores([cosine_N, *self.paired], torch.from_numpy(self.table.scores))
        n = len(self.table)
        rows = np.unique(np.linspace(0, n - 1, min(n, FIT_QUERIES)).round().astype(np.int64))
        found = list(self.blocks(self.scores_of(z_BD), rows))
        right_NM = torch.cat([right for _, right in found])
        answered = right_NM.any(1)
        scores = [torch.cat([block[v] for block, _ in found])[answered] for v in range(1 + len(VIEWS))]
        right_NM = right_NM[answered]
        if not len(right_NM):
            return torch.eye(1 + len(VIEWS), dtype=torch.float64)[0]

        def quality(fused_NM: Tensor) -> float:
            if metric == "map@r":
                return float(map_at_r_in(fused_NM, right_NM).mean())
            # Among weights that find as many at k, those that find them higher up.
            ranks_N = ranks_in(fused_NM, right_NM)
            return float(rank_values(ranks_N, metric).mean() + 1e-3 * rank_values(ranks_N, "mrr").mean())

        return fit_ranking(scores, right_NM, quality)

    def judge(self, z_BD: Tensor, weights_V: Tensor) -> Judged:
        """Where the right texts stand, or how alike the rows' texts are said to be.

        Args:
            z_BD: embeddings of length one, all texts row by row.
            weights_V: of the cosine and the lexical scores.
        """
        nothing = torch.zeros(0, dtype=torch.float64)
        lexical = bool((weights_V[1:] > 0).any())
        if self.table.form == "scores":
            scores = [torch.linalg.vecdot(z_BD[::2], z_BD[1::2]), *(self.paired if lexical else [])]
            return Judged(nothing, nothing, fuse(scores, weights_V[: len(scores)]))
        score = self.scores_of(z_BD, lexical=lexical)
        weights_V = weights_V if lexical else weights_V[:1]
        return self.rank(lambda rows: fuse(score(rows), weights_V))

    def first_block(self, z_BD: Tensor, weights_V: Tensor) -> float:
        """Judge the first queries only, to see how long that takes; returns their share."""
        if self.table.form == "scores":
            self.judge(z_BD, weights_V)
            return 1.0
        self._indexes  # noqa: B018  made once, not for each block
        score, n = self.scores_of(z_BD), len(self.table)
        for scores, right_NM in self.blocks(score, np.arange(min(n, QUERIES_AT_ONCE), dtype=np.int64)):
            ranks_in(fuse(scores, weights_V), right_NM)
        return min(1.0, QUERIES_AT_ONCE / n)

    def rank(self, score: Callable[[Ints], Tensor]) -> Judged:
        """Where the right texts stand by a score, given for some queries at a time, (n, M)."""
        nothing = torch.zeros(0, dtype=torch.float64)
        ranks, maps = [], []
        for scores, right_NM in self.blocks(lambda rows: [score(rows)]):
            answered = right_NM.any(1)
            fused_NM, right_NM = scores[0][answered], right_NM[answered]
            ranks.append(ranks_in(fused_NM, right_NM))
            if self.table.form == "classes":
                maps.append(map_at_r_in(fused_NM, right_NM))
        return Judged(torch.cat(ranks), torch.cat(maps) if maps else nothing, nothing)
