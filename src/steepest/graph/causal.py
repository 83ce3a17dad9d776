"""A causal graph over named columns, and the attention mask it stands for.

    a -> b     a is a cause of b
    a <-> b    a hidden common cause ties a and b

**Contexts.** Column i is predicted from its context T_i, chosen so that the product of the conditionals is the joint:

    p(x) = prod_i p(x_i | T_i),      T_i = (C_i u parents(C_i)) - {i}

where C_i is what hidden causes tie to i among i and the columns before it. Without ``<->`` T_i is the parents.

**The mask.** Attention of any depth and any weights computes column i from T_i and nothing else exactly when the
relation "may attend to" is reflexive and transitive: one layer reads the allowed inputs, L layers read all that is
reachable in L steps, and in a closed relation these are the same. A parent mask over n tokens is not closed (it
would leak ancestors). Two tokens a column make it so: its value, which sees itself, and a question about it, which
sees itself and the values of its context. A text's mask is the complete graph over positions, and closed.

Source: J. Tian and J. Pearl, "A General Identification Condition for Causal Effects", AAAI 2002.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

import networkx as nx
import numpy as np
import numpy.typing as npt

from steepest.errors import DataError

Mask = npt.NDArray[np.bool_]


class Graph:
    """Directed edges without a cycle, and undirected ties by hidden common causes.

    Args:
        directed: pairs (cause, effect).
        hidden: pairs that share a hidden common cause.
        names: all columns, those without an edge too; their order decides where the edges leave it open (without
            it the alphabet does, so that a file gives the same order everywhere).

    Raises:
        DataError: a cycle, spelled out; a column that is its own cause.

    >>> graph = Graph([("stone", "treatment"), ("stone", "recovered"), ("treatment", "recovered")])
    >>> graph.order, graph.parents("recovered")
    (('stone', 'treatment', 'recovered'), ('stone', 'treatment'))
    >>> Graph([("a", "b"), ("b", "c"), ("c", "a")])
    Traceback (most recent call last):
    ...
    steepest.errors.DataError: the graph has a cycle: a -> b -> c -> a; a cause cannot be its own effect: ...
    """

    def __init__(
        self,
        directed: Iterable[tuple[str, str]] = (),
        hidden: Iterable[tuple[str, str]] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.directed = nx.DiGraph()
        self.directed.add_nodes_from(names)
        self.directed.add_edges_from(directed)
        self.hidden = nx.Graph()
        self.hidden.add_edges_from(hidden)
        self.directed.add_nodes_from(self.hidden)
        self.hidden.add_nodes_from(self.directed)
        for graph, words in (
            (self.directed, "is drawn as its own cause"),
            (self.hidden, "is tied to itself"),
        ):
            for name, _ in nx.selfloop_edges(graph):
                raise DataError(f'"{name}" {words}; take that line out of the graph')
        if not nx.is_directed_acyclic_graph(self.directed):
            nodes = sorted(self.directed)
            ordered = nx.DiGraph(sorted(self.directed.edges))  # the same cycle on every machine
            cycle = [a for a, _ in nx.find_cycle(ordered, [name for name in nodes if name in ordered])]
            raise DataError(
                f"the graph has a cycle: {' -> '.join([*cycle, cycle[0]])}; a cause cannot be its own effect: "
                "take one of these edges out, or give the column a name for each point in time"
            )
        rank = {name: index for index, name in enumerate(names)}
        self.order: tuple[str, ...] = tuple(
            nx.lexicographical_topological_sort(self.directed, key=lambda name: (rank.get(name, 0), name))
        )
        self.index = {name: index for index, name in enumerate(self.order)}

    @classmethod
    def complete(cls, names: Sequence[str]) -> "Graph":
        """Every column a cause of all later ones: what a language model assumes of its positions.

        >>> Graph.complete(["a", "b", "c"]).parents("c")
        ('a', 'b')
        """
        return cls([(a, b) for i, b in enumerate(names) for a in names[:i]], names=names)

    def __len__(self) -> int:
        return len(self.order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        """The graph as text that reads back as the same graph, order included."""
        lines = [_quoted(name) for name in self.order]
        lines += [f"{_quoted(a)} -> {_quoted(b)}" for b in self.order for a in self.parents(b)]
        return "\n".join([*lines, *(f"{_quoted(a)} <-> {_quoted(b)}" for a, b in self.ties())]) + "\n"

    def ties(self) -> list[tuple[str, str]]:
        """Pairs with a hidden common cause, each once, in order."""
        pairs = (sorted(pair, key=self.index.__getitem__) for pair in self.hidden.edges)
        return sorted(((a, b) for a, b in pairs), key=lambda pair: (self.index[pair[0]], self.index[pair[1]]))

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes of a column, in order."""
        return tuple(sorted(self.directed.predecessors(name), key=self.index.__getitem__))

    def children(self, name: str) -> tuple[str, ...]:
        """Direct effects of a column, in order."""
        return tuple(sorted(self.directed.successors(name), key=self.index.__getitem__))

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The columns themselves and all their causes, direct or not."""
        names = set(names)
        return names.union(*(nx.ancestors(self.directed, name) for name in names))

    def tied(self, name: str, within: Collection[str] | None = None) -> set[str]:
        """A column and all that hidden causes tie to it, directly or by way of others (``within`` some columns)."""
        graph = self.hidden if within is None else self.hidden.subgraph(within)
        return set(nx.node_connected_component(graph, name))

    def context(self, name: str, within: Collection[str] | None = None) -> tuple[str, ...]:
        """What a column is predicted from, see the top of this file."""
        earlier = [each for each in self.order[: self.index[name] + 1] if within is None or each in within]
        tied = self.tied(name, earlier)
        seen = tied.union(*(self.directed.predecessors(each) for each in tied)) - {name}
        return tuple(sorted(seen, key=self.index.__getitem__))

    @cached_property
    def contexts(self) -> tuple[tuple[int, ...], ...]:
        """Every column's context, as indices into ``order``."""
        return tuple(tuple(self.index[each] for each in self.context(name)) for name in self.order)


def question_mask(contexts: Sequence[Sequence[int]]) -> Mask:
    """The mask over 2n tokens, n values then n questions; true where a token may attend to another.

    >>> question_mask([[], [0]]).astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [0, 0, 1, 0],
           [1, 0, 0, 1]])
    """
    n = len(contexts)
    mask = np.eye(2 * n, dtype=bool)
    for i, context in enumerate(contexts):
        mask[n + i, list(context)] = True
    return mask


def closed(mask: Mask) -> bool:
    """Whether a mask is exact at any depth: reflexive and transitive.

    >>> lower = np.tri(4, dtype=bool)
    >>> closed(lower), closed(lower & ~np.tri(4, k=-2, dtype=bool))  # a text; a window of two
    (True, False)
    """
    reach = (mask.astype(np.int64) @ mask.astype(np.int64)) > 0
    return bool(mask.diagonal().all()) and bool((reach == mask).all())


def _quoted(name: str) -> str:
    return f'"{name}"'
