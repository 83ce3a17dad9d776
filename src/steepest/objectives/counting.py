"""Counting: the floor under every table model, in milliseconds. How often each answer followed each context.

    shrunk   (n_v + m_v) / (N + 1)            pulled towards the column's own marginal m, one row's worth
    BDeu     (n_v + e/(C K)) / (N + e/C)      a flat prior worth e = 5 rows in all, over C contexts of K categories
    towards  (n_v + s q_v) / (N + s)          pulled towards another model's answer q, s rows' worth

Source: W. Buntine, "Theory refinement on Bayesian networks", 1991 (BDeu).
"""

import math
from collections.abc import Sequence

import numpy as np

from steepest.data.questions import Floats, Questions, distinct
from steepest.data.table import Codes

EQUIVALENT_ROWS = 5.0  # e, as usual
LEAST_STRENGTH = 1e-9  # of a prior, so that a context that never occurred still gets it


class Counts:
    """How often each answer followed each context, of every column.

    >>> rows = np.array([[0, 1], [0, 1], [0, 0], [1, 1]])
    >>> counts = Counts(Questions(rows, cards=[2, 2], contexts=[[], [0]]))
    >>> counts.rows(1, np.array([[0], [1]]))
    array([[1., 2.],
           [0., 1.]])
    >>> counts.shrunk(1, np.array([[1]])).round(2)  # one row, and the marginal's (0.3, 0.7) of another
    array([[0.15, 0.85]])
    """

    def __init__(self, questions: Questions) -> None:
        self.cards, self.contexts, start = questions.cards, questions.contexts, questions.start
        self.n_rows = questions.n_rows
        self._known: list[Codes] = []
        self._tables: list[Floats] = []
        column_Q = questions.column_Q
        for i, context in enumerate(self.contexts):
            mine = np.flatnonzero(column_Q == i)
            self._known.append(questions.ids_QT[mine, 1 : 1 + len(context)] - start[list(context)])
            table = np.zeros((len(mine), self.cards[i]))
            inside = column_Q[questions.question_N] == i
            place = (questions.question_N[inside] - mine[0], questions.answer_N[inside] - start[i])
            table[place] = questions.count_N[inside]
            self._tables.append(table)

    def rows(self, column: int, contexts: Codes) -> Floats:
        """Counts (M, card) after each of M contexts (M, P); zeros where it never occurred."""
        known, table = self._known[column], self._tables[column]
        which, _ = distinct(np.concatenate([known, contexts]))
        place = np.full(which.max() + 1, len(known))
        place[which[: len(known)]] = np.arange(len(known))
        padded: Floats = np.concatenate([table, np.zeros((1, table.shape[1]))])
        found: Floats = padded[place[which[len(known) :]]]
        return found

    def marginal(self, column: int) -> Floats:
        """The column's own shares, half a row added to each category."""
        total: Floats = self._tables[column].sum(0) + 0.5
        return np.asarray(total / total.sum())

    def shrunk(self, column: int, contexts: Codes) -> Floats:
        """Counts pulled towards the marginal, (M, card)."""
        return towards(self.rows(column, contexts), self.marginal(column), 1.0)

    def bdeu(self, column: int, contexts: Codes, rows: float = EQUIVALENT_ROWS) -> Floats:
        """Counts with a flat prior of ``rows`` over all contexts that are possible, (M, card)."""
        possible = n_contexts(self.cards, self.contexts[column])
        flat = np.full(self.cards[column], 1 / self.cards[column])
        return towards(self.rows(column, contexts), flat, max(rows / possible, LEAST_STRENGTH))


def towards(counts: Floats, prior: Floats, strength: float) -> Floats:
    """Counts pulled towards a distribution, as by ``strength`` more rows that follow it.

    >>> towards(np.array([3.0, 1.0]), np.array([0.5, 0.5]), 4.0)
    array([0.625, 0.375])
    """
    pulled: Floats = (counts + strength * prior) / (counts.sum(-1, keepdims=True) + strength)
    return pulled


def n_contexts(cards: Sequence[int], context: Sequence[int]) -> float:
    """How many contexts a column can have."""
    return math.prod(float(cards[j]) for j in context)


def n_cells(cards: Sequence[int], contexts: Sequence[Sequence[int]]) -> float:
    """Cells of all columns' conditional tables."""
    return sum(cards[i] * n_contexts(cards, context) for i, context in enumerate(contexts))
