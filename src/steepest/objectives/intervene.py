"""Seeing and doing: p(y | z) and p(y | do(x), z) from a causal model's conditionals.

    seeing    p(x) = prod_i p(x_i | T_i)
    doing     the same product without the set columns, which all others read at the value they are set to

Exact where the sum over the product is small (``graph/inference.py``); otherwise by ancestral sampling: every column
in turn from its conditional, what is known weighs the draw by its probability (likelihood weighting), and the answer
comes with the standard error of the draws.

An intervened column with hidden common causes is drawn too: its natural value feeds the columns tied to it by
``<->``, the set one all others (``graph/identify.py``).

Source: J. Pearl, "Causality", 2009, section 1.3; R. Shachter and M. Peot, likelihood weighting, 1989.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from steepest.data.questions import Floats, distinct
from steepest.data.table import Codes
from steepest.errors import QueryError
from steepest.graph import Factor, Graph, Settled, cost_of, settle, sum_out

EXACT_CELLS = 1e6  # of the largest table on the way, up to which answers are exact
EXACT_QUESTIONS = 5e4  # conditionals asked for, up to which answers are exact
LEAST_DRAWS = 100  # effective, below which the evidence is too rare to be sampled
IMPOSSIBLE, UNDERFLOW = 1e-9, 1e-290  # probability of each column that is known; of all, where numbers end


class Model(Protocol):
    """What is asked: conditionals of columns that are called by their index in the graph's order."""

    @property
    def cards(self) -> tuple[int, ...]:
        """Categories of each column."""

    @property
    def contexts(self) -> tuple[tuple[int, ...], ...]:
        """What each column is predicted from."""

    def __call__(self, column: int, contexts: Codes) -> Floats:
        """Probabilities (M, card) for M contexts, (M, P)."""


@dataclass(frozen=True)
class Answer:
    """A distribution over the asked column's categories.

    Attributes:
        p: probabilities, (card,).
        error: their standard errors, of the draws alone; ``None`` where the answer is exact.
        draws: effective number of draws; 0 where the answer is exact.
        evidence: probability of what is known.
    """

    p: Floats
    error: Floats | None
    draws: float
    evidence: float


def ask(
    model: Model,
    graph: Graph,
    target: str,
    *,
    do: Mapping[str, int] | None = None,
    given: Mapping[str, int] | None = None,
    draws: int = 10_000,
    seed: int = 0,
    exact: bool | None = None,
) -> Answer:
    """p(target | do, given); categories are codes.

    Args:
        draws: if it is sampled.
        exact: whether to sum exactly; ``None``: where that is small.

    Raises:
        QueryError: not settled by graph and data, or what is known is impossible.
    """
    do, given = dict(do or {}), dict(given or {})
    plan = settle(graph, target, do, given)
    known = {graph.index[name]: code for name, code in given.items()}
    held = {name: known | {graph.index[each]: do[each] for each in plan.fixed[name]} for name in plan.columns}
    if exact is None:
        exact = _is_small(model, graph, held, target, given)
    if exact:
        return _sum(model, graph, held, target, given)
    return _sample(model, graph, plan, do, target, given, draws, seed)


def draw_rows(
    model: Model, graph: Graph, n: int, *, do: Mapping[str, int] | None = None, seed: int = 0
) -> Codes:
    """Rows from the model, (n, columns), or from the changed world where some columns are set."""
    do = dict(do or {})
    free = [name for name in graph.order if name not in do]
    if not free:
        return np.tile(np.array([do[name] for name in graph.order], dtype=np.int64), (n, 1))
    plan = settle(graph, free[0], do, free[1:])
    rows, _ = _draw(model, graph, plan, do, n, np.random.default_rng(seed))
    for name, code in do.items():
        rows[:, graph.index[name]] = code
    return rows


def table_of(model: Model, column: int, fixed: Mapping[int, int] | None = None) -> Floats:
    """A column's whole table: an axis for each column of its context that is not ``fixed``, then its own."""
    fixed, context = fixed or {}, model.contexts[column]
    free = [model.cards[j] for j in context if j not in fixed]
    every = np.tile(np.array([fixed.get(j, 0) for j in context], dtype=np.int64), (math.prod(free), 1))
    open_ = [at for at, j in enumerate(context) if j not in fixed]
    every[:, open_] = np.indices(free).reshape(len(free), math.prod(free)).T
    return model(column, every).reshape(*free, model.cards[column])


Held = Mapping[str, Mapping[int, int]]  # what is known or set of each needed column's context


def _is_small(model: Model, graph: Graph, held: Held, target: str, given: Mapping[str, int]) -> bool:
    sizes: dict[object, int] = {name: model.cards[graph.index[name]] for name in graph.order}
    scopes, questions = [], 0.0
    for name, at in held.items():
        free = [j for j in model.contexts[graph.index[name]] if j not in at]
        questions += math.prod(model.cards[j] for j in free)
        scopes.append([graph.order[j] for j in free] + ([] if name in given else [name]))
    return questions <= EXACT_QUESTIONS and cost_of(scopes, [target], sizes) <= EXACT_CELLS


def _sum(model: Model, graph: Graph, held: Held, target: str, given: Mapping[str, int]) -> Answer:
    """Variable elimination over the needed conditionals."""
    factors = []
    for name, at in held.items():
        i = graph.index[name]
        names = (*(graph.order[j] for j in model.contexts[i] if j not in at), name)
        factor = Factor(names, table_of(model, i, at))
        factors.append(factor.fix({name: given[name]} if name in given else {}))
    p = sum_out(factors, [target])
    evidence = float(p.sum())
    if evidence < _least(given):
        raise _impossible(given, f"probability {evidence:.1g}")
    return Answer(p / evidence, None, 0.0, evidence)


def _sample(
    model: Model,
    graph: Graph,
    plan: Settled,
    do: Mapping[str, int],
    target: str,
    given: Mapping[str, int],
    draws: int,
    seed: int,
) -> Answer:
    rows, (weight, p_target) = _draw(
        model, graph, plan, do, draws, np.random.default_rng(seed), given=given, target=target
    )
    # Where nothing known was drawn after the target, average its probabilities: less noise than its draws.
    later = any(graph.index[name] > graph.index[target] for name in given)
    drawn = np.eye(model.cards[graph.index[target]])[rows[:, graph.index[target]]]
    answer = drawn if later else p_target
    top = weight.max()
    evidence = float(np.exp(weight - top).mean() * np.exp(top)) if np.isfinite(top) else 0.0
    if evidence < _least(given):
        raise _impossible(given, f"probability {evidence:.1g}")
    share = np.exp(weight - top)
    share /= share.sum()
    effective = float(1 / np.square(share).sum())
    if given and effective < LEAST_DRAWS:
        raise QueryError(
            f"{draws:,} draws are worth {effective:.0f} that agree with what is known of {' and '.join(given)}, and "
            f"{LEAST_DRAWS} is the least; ask with more --draws, or with less or other evidence"
        )
    p: Floats = share @ answer
    error: Floats = np.sqrt(np.square(share) @ np.square(answer - p))
    return Answer(p, error, effective, evidence)


def _draw(
    model: Model,
    graph: Graph,
    plan: Settled,
    do: Mapping[str, int],
    draws: int,
    dice: np.random.Generator,
    *,
    given: Mapping[str, int] | None = None,
    target: str | None = None,
) -> tuple[Codes, tuple[Floats, Floats]]:
    """Rows of codes (natural ones of set columns), log-weights, and the target's probabilities in each row."""
    given = given or {}
    rows = np.zeros((draws, len(graph)), dtype=np.int64)
    weight, p_target = np.zeros(draws), np.zeros((draws, 0))
    for name in plan.columns:
        i = graph.index[name]
        context = model.contexts[i]
        seen = rows[:, list(context)]
        for place, j in enumerate(context):
            if graph.order[j] in plan.fixed[name]:
                seen[:, place] = do[graph.order[j]]
        which, first = distinct(seen)
        p = model(i, seen[first])
        if name == target:
            p_target = p[which]
        if name in given:
            rows[:, i] = given[name]
            with np.errstate(divide="ignore"):
                weight += np.log(p[which, given[name]])
        else:
            reach = p.cumsum(1)
            reach[:, -1] = np.inf  # rounding must not leave the last category out
            rows[:, i] = (dice.random((draws, 1)) >= reach[which]).sum(1)
    return rows, (weight, p_target)


def _least(given: Mapping[str, int]) -> float:
    """Probability below which what is known is taken not to happen: many columns are seldom all as in one row."""
    return max(float(IMPOSSIBLE ** max(1, len(given))), UNDERFLOW)


def _impossible(given: Mapping[str, int] | Sequence[str], why: str) -> QueryError:
    names = " and ".join(given)
    return QueryError(
        f"what is known of {names} does not happen, or hardly ever, in this model ({why}); ask with less or other evidence"
    )
