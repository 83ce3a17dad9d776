"""Conditionals: p(column | context) of a trained causal model, counts and network blended column by column.

    p = sum_c w_c p_c,     p_c one of   the network's q
                                        counts pulled towards q by s = 2, 8, 32, 128, 512 rows
                                        counts pulled towards the marginal by one (shrunk)
                                        counts with a flat prior (BDeu)

The weights of a column come from rows that neither network nor counts had seen (``train/cross_fit.py``), by
expectation-maximisation; the log-likelihood is concave in them. Few rows say little about eight weights, so every
column is pulled towards the weights of all columns together: they count as ``SHARED_ROWS`` rows more.

Source: L. Breiman, "Stacked Regressions", 1996; P. Smyth and D. Wolpert, "Stacking Density Estimators", 1998.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.data.questions import Floats
from steepest.data.table import Codes
from steepest.objectives.counting import Counts, towards

STRENGTHS = (2.0, 8.0, 32.0, 128.0, 512.0)
CANDIDATES = ("network", *(f"counts + {s:g} network" for s in STRENGTHS), "shrunk counts", "BDeu")
SHARED_ROWS = 20.0
ROUNDS = 200
LEAST_WEIGHT = 1e-6

Predict = Callable[[int, Codes], Floats]


def candidates(network: Floats, counts: Counts, column: int, contexts: Codes) -> Floats:
    """Every candidate's answer, (C, M, card), given the network's, (M, card)."""
    seen = counts.rows(column, contexts)
    pulled = [towards(seen, network, strength) for strength in STRENGTHS]
    return np.stack([network, *pulled, counts.shrunk(column, contexts), counts.bdeu(column, contexts)])


def fit_weights(likelihoods: Sequence[Floats], rows: Sequence[Floats]) -> Floats:
    """Weights (n, C) of the candidates for each column.

    Args:
        likelihoods: of each column, what every candidate gave each held-out answer, (N, C).
        rows: of each column, how many held-out rows gave that answer, (N,).

    >>> sure, unsure = np.full((50, 1), 0.9), np.full((50, 1), 0.3)
    >>> fit_weights([np.hstack([sure, unsure])], [np.ones(50)]).round(1)
    array([[1., 0.]])
    """
    start = np.full(likelihoods[0].shape[1], 1 / likelihoods[0].shape[1])
    shared = maximise(np.concatenate(likelihoods), np.concatenate(rows), start, 0.0)
    shared = 0.9 * shared + 0.1 * start  # what does not pay for all may pay for one
    return np.stack(
        [maximise(each, n, shared, SHARED_ROWS) for each, n in zip(likelihoods, rows, strict=True)]
    )


def maximise(likelihood_NC: Floats, rows_N: Floats, prior_C: Floats, prior_rows: float) -> Floats:
    """Expectation-maximisation with longer steps where they pay: w <- w g^k, k = 1 the plain one, g = 1 at the end."""

    def score(weights: Floats) -> float:
        return float(rows_N @ np.log(likelihood_NC @ weights) + prior_rows * prior_C @ np.log(weights))

    weights, length, total = prior_C.copy(), 1.0, rows_N.sum() + prior_rows
    best = score(weights)
    for _ in range(ROUNDS):
        gradient = (rows_N / (likelihood_NC @ weights)) @ likelihood_NC + prior_rows * prior_C / weights
        new = np.maximum(weights * (gradient / total) ** length, LEAST_WEIGHT)
        new /= new.sum()
        value = score(new)
        if value < best:
            if length == 1.0:
                break
            length = 1.0
            continue
        gained, weights, best, length = value - best, new, value, length * 2
        if gained < 1e-7 * total:
            break
    return weights


@dataclass(frozen=True)
class Conditionals:
    """p(column | context), ready to be asked.

    Attributes:
        counts: of the rows trained on.
        network: probabilities (M, card) of a column for M contexts; see ``CausalGraph.predict``.
        weights: of the candidates for each column, (n, C).
    """

    counts: Counts
    network: Predict
    weights: Floats

    @property
    def cards(self) -> tuple[int, ...]:
        """Categories of each column."""
        return self.counts.cards

    @property
    def contexts(self) -> tuple[tuple[int, ...], ...]:
        """What each column is predicted from."""
        return self.counts.contexts

    def __call__(self, column: int, contexts: Codes) -> Floats:
        """Probabilities (M, card) of a column for M contexts, (M, P) codes."""
        answers = candidates(self.network(column, contexts), self.counts, column, contexts)
        blended: Floats = np.einsum("c,cmk->mk", self.weights[column], answers)
        return blended
