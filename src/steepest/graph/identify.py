"""Tian's test: which answers to "what if it were set" data and graph settle.

With C(x) for all that hidden causes tie to x, p(v | do(x)) is settled exactly when no child of x is in C(x):

    p(v | do(x)) = Q(V - C(x)) * sum over x' of Q(C(x)),      Q(C) = prod of p(x_i | T_i) over i in C

where x' is the value x would have had by itself; only the columns tied to x see it, all others see the set one. The
back door, the front door and every graph without ``<->`` are cases of this. Several columns set at once: each one's
children among those tied to it must be set too (then what is left of C is ancestral in it, and the sum stands).

For p(y | do(x), z) the test may be made on the ancestors of y, z and x alone. It is sufficient there, not
necessary: a few settled questions (the napkin) need the full ID algorithm, and are refused here.

Source: J. Tian and J. Pearl, "A General Identification Condition for Causal Effects", AAAI 2002, theorems 2 to 4.
"""

from collections.abc import Collection
from dataclasses import dataclass

import networkx as nx

from steepest.errors import QueryError
from steepest.graph.causal import Graph


@dataclass(frozen=True)
class Settled:
    """How to answer.

    Attributes:
        columns: those whose conditionals are needed, in order; a set column is among them if its natural value is.
        fixed: for each of them, the columns of its context that it sees at the value they are set to.
        acting: the set columns that act on what is asked; setting any other changes nothing.
    """

    columns: tuple[str, ...]
    fixed: dict[str, frozenset[str]]
    acting: frozenset[str]


def settle(graph: Graph, target: str, do: Collection[str] = (), given: Collection[str] = ()) -> Settled:
    """Plan the answer to p(target | do, given).

    Raises:
        QueryError: data and graph do not settle it, naming the culprit.

    >>> front_door = Graph([("x", "m"), ("m", "y")], [("x", "y")])
    >>> plan = settle(front_door, "y", ["x"])  # m sees the set x, y (by way of the tie) the natural one
    >>> plan.columns, plan.fixed["m"], plan.fixed["y"]
    (('x', 'm', 'y'), frozenset({'x'}), frozenset())
    >>> settle(Graph([("x", "y")], [("x", "y")]), "y", ["x"])
    Traceback (most recent call last):
    ...
    steepest.errors.QueryError: data do not settle what do(x) does to y: x <-> y share hidden causes and x -> y: ...
    """
    asked = {target, *given}
    cut = graph.directed.copy()
    cut.remove_edges_from([(cause, x) for x in do for cause in graph.parents(x)])
    acting = asked.union(*(nx.ancestors(cut, name) for name in asked)).intersection(do)
    within: Collection[str] = graph.order
    if _culprit(graph, acting, within):
        # What is no cause of anything asked may be left out, if no conditional reads it.
        kept = graph.ancestors(asked)
        fits = not _culprit(graph, acting, kept)
        if not fits or any(graph.context(name) != graph.context(name, kept) for name in kept):
            spare = [name for name in graph.order if name not in kept] if fits else []
            raise _refused(graph, target, *_culprit(graph, acting, within) or ("", ""), spare)
        within = kept
    fixed: dict[str, frozenset[str]] = {}
    waiting = list(asked)
    while waiting:
        name = waiting.pop()
        if name not in fixed:
            # A set column shows its natural value to those that are tied to it, the set one to all others.
            untied = acting - graph.tied(name, within)
            fixed[name] = frozenset(untied.intersection(graph.context(name)))
            waiting += [each for each in graph.context(name) if each not in fixed[name]]
    return Settled(tuple(name for name in graph.order if name in fixed), fixed, frozenset(acting))


def effects(graph: Graph) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Every effect of a cause on what it may change: the settled pairs, and the others with the reason.

    >>> effects(Graph([("x", "m"), ("m", "y")], [("x", "y")]))[0]
    [('x', 'm'), ('x', 'y'), ('m', 'y')]
    """
    settled, refused = [], []
    for x in graph.order:
        for y in graph.order:
            if y in nx.descendants(graph.directed, x):
                try:
                    settle(graph, y, [x])
                    settled.append((x, y))
                except QueryError as error:
                    refused.append((x, y, str(error)))
    return settled, refused


def _culprit(graph: Graph, do: Collection[str], within: Collection[str]) -> tuple[str, str] | None:
    """A set column and its child that hidden causes tie to it, the child not set itself."""
    for x in do:
        tied = graph.tied(x, within)
        for child in graph.children(x):
            if child in tied and child not in do:
                return x, child
    return None


def _refused(graph: Graph, target: str, x: str, child: str, spare: list[str]) -> QueryError:
    path = " <-> ".join(nx.shortest_path(graph.hidden, x, child))
    reason = (
        f"data do not settle what do({x}) does to {target}: {path} share hidden causes and {x} -> {child}"
    )
    if spare:
        return QueryError(
            f"{reason}; they would without {', '.join(spare)}, no cause of anything asked: "
            "take it out of graph and table and train again"
        )
    return QueryError(
        f"{reason}: what is seen could come from either; measure a hidden cause, or a column between {x} and {child}"
    )
