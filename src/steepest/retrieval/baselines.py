"""What a lexical score reaches on the same rows, and in what time: BM25 and TF-IDF cosines.

pairs, classes   BM25 of words; TF-IDF of 3 to 5 characters (scikit-learn, an extra; left out without it)
scores           TF-IDF cosine of words; of 4 characters
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.errors import ConfigError
from steepest.retrieval.bm25 import BM25
from steepest.retrieval.terms import CUTS
from steepest.retrieval.tfidf import character_tfidf, paired_cosines
from steepest.retrieval.truth import Judged, Truth


@dataclass(frozen=True)
class Baseline:
    """A baseline and what was found."""

    name: str
    judged: Judged
    seconds: float


def lexical_baselines(truth: Truth) -> Iterator[Baseline]:
    """Every baseline on some rows; one whose library is missing is left out."""
    if truth.table.form == "scores":
        left, right = ([row[side] for row in truth.table.texts] for side in (0, 1))
        background = list(truth.background) or [*left, *right]
        for name, cut in (("TF-IDF words", "words"), ("TF-IDF characters", "characters")):
            began = time.perf_counter()
            said = paired_cosines(left, right, cut=CUTS[cut], background=background)
            nothing = torch.zeros(0, dtype=torch.float64)
            judged = Judged(nothing, nothing, torch.from_numpy(said))
            yield Baseline(name, judged, time.perf_counter() - began)
        return
    for name, prepared in (("BM25", _bm25), ("TF-IDF characters", _character_tfidf)):
        began = time.perf_counter()
        try:
            score = prepared(truth)
        except ConfigError:
            continue
        judged = truth.rank(score)
        yield Baseline(name, judged, time.perf_counter() - began)


def _bm25(truth: Truth) -> Callable[[Any], Tensor]:
    index = BM25(truth.documents)
    counts = index.count(truth.queries)
    return lambda rows: torch.from_numpy(index.scores_of(counts[rows]))


def _character_tfidf(truth: Truth) -> Callable[[Any], Tensor]:
    queries, documents = character_tfidf(truth.queries, truth.documents, list(truth.background) or None)
    transposed = documents.T.tocsr()
    return lambda rows: torch.from_numpy(np.asarray((queries[rows] @ transposed).toarray()))
