"""Cross-fitting: rows that neither network nor counts have seen, to weigh the two by, and to judge them.

    fit k       train on the rows outside fold k, predict the rows of fold k
    weights     what makes all held-out rows likeliest (``objectives/conditionals.py``)
    held out    log-likelihood per row of counts, network and both; the blend by weights that other rows gave

Few rows: as many folds as fits, so that each row is held out once. Many: a fifth of them is enough, held out once.
The model that is kept is trained afterwards, on all rows: on a small table every row held out is dearly missed.

Source: M. Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steepest.data.questions import Floats, Questions, TableExamples
from steepest.data.table import Codes
from steepest.errors import DataError
from steepest.model import Transformer
from steepest.objectives.causal_graph import CausalGraph
from steepest.objectives.conditionals import CANDIDATES, candidates, fit_weights
from steepest.objectives.counting import Counts
from steepest.train.loop import run_loop
from steepest.train.run import RunConfig, compose, resolve_autocast

FOLDS_OF_MANY = 5  # where one of them is held out only
PARTS = 2  # of a fold, so that one can be judged by the weights of the other

Build = Callable[[RunConfig, Transformer], CausalGraph]


@dataclass(frozen=True)
class CrossFit:
    """What cross-fitting found.

    Attributes:
        weights: of the candidates for each column, (n, C).
        held_out: log-likelihood in nats per row of "network", "shrunk counts", "BDeu" and "blend".
    """

    weights: Floats
    held_out: dict[str, float]


def cross_fit(
    config: RunConfig,
    codes: Codes,
    questions_of: Callable[[Codes], Questions],
    build: Build,
    *,
    steps: int,
    fits: int,
    until: float | None = None,
    done: Callable[[int], None] = lambda fit: None,
) -> CrossFit:
    """Fit the network ``fits`` times, each time without some of the rows, and weigh it against counting.

    Args:
        codes: the rows, (rows, n).
        questions_of: makes questions of some of them.
        build: puts the objective on a trunk.
        steps: of each fit.
        until: on the scale of ``time.monotonic()``; a further fit, and the last one on all rows, must end before it,
            or the fits made are enough.
        done: called with the number of fits behind.

    Raises:
        DataError: fewer than two rows a part.
    """
    folds = fits if fits > 1 else FOLDS_OF_MANY
    if len(codes) < 2 * PARTS * folds:
        raise DataError(f"a table of {len(codes)} rows is too small: {2 * PARTS * folds} are the least")
    place = np.random.default_rng(config.batches.seed).permutation(len(codes)) % (PARTS * folds)
    parts: list[_Part] = []
    began = time.monotonic()
    for fold in range(fits):
        now = time.monotonic()
        if until is not None and fold and now + 2 * (now - began) / fold > until:
            break  # the machine has become slower
        questions = questions_of(codes[place // PARTS != fold])
        network, counts = fit_network(config, questions, build, steps=steps), Counts(questions)
        parts += [
            _predict(network, counts, questions_of(codes[place == PARTS * fold + half]))
            for half in range(PARTS)
        ]
        done(fold + 1)
    return CrossFit(_weigh(parts), _judge(parts))


@dataclass(frozen=True)
class _Part:
    """Some held-out rows: for each column, what every candidate gave each answer, and how many rows gave it."""

    likelihood: list[Floats]  # (N, C) a column
    rows: list[Floats]  # (N,)
    n_rows: int


def _predict(network: CausalGraph, counts: Counts, held_out: Questions) -> _Part:
    likelihood, rows = [], []
    column_N = held_out.column_Q[held_out.question_N]
    for i, context in enumerate(held_out.contexts):
        mine = np.flatnonzero(held_out.column_Q == i)
        asked = held_out.ids_QT[mine, 1 : 1 + len(context)] - held_out.start[list(context)]
        answers = candidates(network.predict(i, asked), counts, i, asked)
        inside = column_N == i
        given = held_out.answer_N[inside] - held_out.start[i]
        likelihood.append(answers[:, held_out.question_N[inside] - mine[0], given].T)
        rows.append(held_out.count_N[inside])
    return _Part(likelihood, rows, held_out.n_rows)


def _weigh(parts: list[_Part]) -> Floats:
    columns = range(len(parts[0].rows))
    return fit_weights(
        [np.concatenate([part.likelihood[i] for part in parts]) for i in columns],
        [np.concatenate([part.rows[i] for part in parts]) for i in columns],
    )


def _judge(parts: list[_Part]) -> dict[str, float]:
    """Log-likelihood per row; the blend of a part by weights of the other parts."""
    found = dict.fromkeys(("network", "shrunk counts", "BDeu", "blend"), 0.0)
    for part in parts:
        weights = _weigh([other for other in parts if other is not part])
        for rows, likelihood, weight in zip(part.rows, part.likelihood, weights, strict=True):
            found["blend"] += float(rows @ np.log(likelihood @ weight))
            for name in ("network", "shrunk counts", "BDeu"):
                found[name] += float(rows @ np.log(likelihood[:, CANDIDATES.index(name)]))
    n_rows = sum(part.n_rows for part in parts)
    return {name: value / n_rows for name, value in found.items()}


def fit_network(config: RunConfig, questions: Questions, build: Build, *, steps: int) -> CausalGraph:
    """Train a network on some questions for so many steps; a pure function of its arguments."""
    train = config.train.replace(time=None, tokens=None, epochs=None, most_steps=None, steps=steps)
    config = config.replace(train=train)
    state = compose(config, TableExamples(questions, Path()), build)
    device = next(state.objective.parameters()).device
    run_loop(
        state,
        lr=config.optim.lr or 0.0,
        clip=config.optim.clip,
        micro_batch=config.train.micro_batch or len(questions),
        autocast=resolve_autocast(config, device),
        device=device,
    )
    assert isinstance(state.objective, CausalGraph)
    state.objective.eval()
    return state.objective


def carried_by(weights: Floats, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Which columns lean on what: most of their weight on the network, on counts, or on counts filled up by it.

    >>> carried_by(np.array([[0.9, 0.1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.8, 0.2]]), ("a", "b"))
    {'network': ['a'], 'counts': ['b'], 'both': []}
    """
    parts: dict[str, list[str]] = {"network": [], "counts": [], "both": []}
    counting = [CANDIDATES.index("shrunk counts"), CANDIDATES.index("BDeu")]
    for name, weight in zip(names, weights, strict=True):
        alone, counted = weight[CANDIDATES.index("network")], weight[counting].sum()
        parts["network" if alone > 0.5 else "counts" if counted > 0.5 else "both"].append(name)
    return parts


def summary(fitted: CrossFit, names: tuple[str, ...]) -> dict[str, Any]:
    """As plain values, for ``plan.json`` and ``result.json``."""
    return {"held_out": fitted.held_out, "carried": carried_by(fitted.weights, names)}
