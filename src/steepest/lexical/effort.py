"""How much lexical work a time budget has room for, estimated from a sample.

    seconds(N) = N / n * [ making the bag + fits * one fit + baselines ],     all of them timed on n texts

A fit's time is in proportion to its texts (dual coordinate descent), a regression's too (so many L-BFGS steps). If all
of it is too much, only one strength is tried and fewer folds are made; then without characters; if that is too much
still, on fewer texts: the others are judged by a model that has not seen them either.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from steepest.errors import DataError
from steepest.lexical.features import make_bag, suitable_views
from steepest.lexical.model import (
    FEW_FOLDS,
    FOLDS,
    STRENGTHS,
    Labels,
    fit_baselines,
    separate,
)

SAMPLE, FIRST = 500, 20  # texts that are timed; and that are worked on before, for what is slow only once
SHARE = 0.4  # of the time budget that lexical work may take
MIDDLE = STRENGTHS[1:2]  # where there is no time to choose one


@dataclass(frozen=True)
class Effort:
    """What is done.

    Attributes:
        views: of the texts.
        strengths: to choose from.
        folds: at most.
        rows: numbers of the texts that are fitted to.
        baselines: whether there is time for these.
        seconds: what it is expected to take; 0 where nothing was timed.
    """

    views: tuple[str, ...]
    strengths: tuple[float, ...]
    folds: int
    rows: Labels
    baselines: bool = True
    seconds: float = 0.0


def choose_effort(
    texts: Sequence[str], labels_N: Labels, classes: int, seconds: float | None = None
) -> Effort:
    """The most work that fits into some seconds; all of it, untimed, if ``None``.

    >>> effort = choose_effort(["a cat", "a dog"] * 9, np.array([0, 1] * 9), 2)
    >>> effort.views, effort.folds, len(effort.rows)
    (('words', 'characters', 'beginnings'), 5, 18)
    """
    every, views = np.arange(len(texts)), tuple(suitable_views(texts))
    whole = Effort(views, STRENGTHS, FOLDS, every)
    if seconds is None:
        return whole
    few = views[:1] if len(views) < 3 else (views[0], views[2])
    with suppress(DataError):  # so few may hold no word
        _estimate(whole, texts, labels_N, classes, FIRST)
    for effort in (
        whole,
        Effort(views, MIDDLE, FEW_FOLDS, every),
        Effort(few, MIDDLE, FEW_FOLDS, every),
        Effort(few, MIDDLE, 2, every, False),
    ):
        needed = _estimate(effort, texts, labels_N, classes)
        if needed <= seconds:
            return Effort(effort.views, effort.strengths, effort.folds, every, effort.baselines, needed)
    count = max(min(len(texts), 2 * classes), int(len(texts) * seconds / needed))
    rows = np.sort(np.random.default_rng(0).permutation(len(texts))[:count])
    return Effort(effort.views, effort.strengths, effort.folds, rows, False, needed * count / len(texts))


def _estimate(
    effort: Effort, texts: Sequence[str], labels_N: Labels, classes: int, sample: int = SAMPLE
) -> float:
    """Seconds of some work on all texts."""
    rows = np.random.default_rng(0).permutation(len(texts))[:sample]
    drawn, labels_S = [texts[row] for row in rows], labels_N[rows]
    began = time.perf_counter()
    bag = make_bag(effort.views, drawn)
    made = time.perf_counter()
    separate(bag.matrix, labels_S, classes, strength=effort.strengths[-1])
    fitted = time.perf_counter()
    if effort.baselines:
        fit_baselines(bag, labels_S, classes)
    judged = time.perf_counter()
    fits = len(effort.strengths) + effort.folds - 1 + 2
    # Twice the bag: development rows, and the baselines' predictions.
    total = 2 * (made - began) + fits * (fitted - made) + (judged - fitted)
    return total * len(texts) / len(rows)
