"""Worlds with known truth for the causal tests: every hidden cause is there, every probability is a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.data.questions import Floats
from steepest.data.table import Codes
from steepest.graph import Graph


@dataclass
class World:
    """A graph whose hidden common causes are binary variables of their own; axes: hidden ones, then the columns."""

    graph: Graph
    cards: tuple[int, ...]
    hidden: Floats  # one P(1) each
    tables: list[Floats]  # axes: hidden causes of the column, parents, the column
    hidden_of: list[list[int]]

    @classmethod
    def random(cls, graph: Graph, seed: int, cards: Sequence[int] | None = None) -> "World":
        dice = np.random.default_rng(seed)
        cards = tuple(cards or [2] * len(graph))
        ties = graph.ties()
        hidden_of = [[k for k, pair in enumerate(ties) if name in pair] for name in graph.order]
        tables = []
        for i, name in enumerate(graph.order):
            shape = [2] * len(hidden_of[i]) + [cards[graph.index[p]] for p in graph.parents(name)]
            tables.append(dice.dirichlet(np.full(cards[i], 0.7), size=shape))
        return cls(graph, cards, dice.uniform(0.2, 0.8, len(ties)), tables, hidden_of)

    def joint(self, do: Mapping[str, int] | None = None) -> Floats:
        """P(columns | do), an axis for each column of the graph's order."""
        do = do or {}
        n_hidden, n = len(self.hidden), len(self.graph)
        product = np.ones((2,) * n_hidden + self.cards)
        for k, p in enumerate(self.hidden):
            product = product * self._spread(np.array([1 - p, p]), [k])
        for i, name in enumerate(self.graph.order):
            if name in do:
                table = np.zeros(self.cards[i])
                table[do[name]] = 1
                product = product * self._spread(table, [n_hidden + i])
            else:
                parents = [n_hidden + self.graph.index[p] for p in self.graph.parents(name)]
                product = product * self._spread(self.tables[i], [*self.hidden_of[i], *parents, n_hidden + i])
        assert product.ndim == n_hidden + n
        return product.sum(tuple(range(n_hidden)))

    def answer(self, y: str, do: Mapping[str, int], given: Mapping[str, int] | None = None) -> Floats:
        """P(y | do, given), by summing the whole table."""
        joint = self.joint(do)
        for name, code in (given or {}).items():
            keep = np.zeros(self.cards[self.graph.index[name]])
            keep[code] = 1
            shape = [1] * joint.ndim
            shape[self.graph.index[name]] = -1
            joint = joint * keep.reshape(shape)
        p = joint.sum(tuple(i for i in range(joint.ndim) if i != self.graph.index[y]))
        return p / p.sum()

    def sample(self, n: int, seed: int, do: Mapping[str, int] | None = None) -> Codes:
        joint = self.joint(do)
        flat = np.random.default_rng(seed).choice(joint.size, size=n, p=joint.ravel() / joint.sum())
        return np.stack(np.unravel_index(flat, joint.shape), axis=1).astype(np.int64)

    def _spread(self, table: Floats, axes: list[int]) -> Floats:
        order = np.argsort(axes)
        shape = [1] * (len(self.hidden) + len(self.graph))
        for axis, size in zip(axes, table.shape, strict=True):
            shape[axis] = size
        return np.transpose(table, order).reshape(shape)


class ExactModel:
    """The conditionals p(column | context) that any estimator would find with all the rows of the world."""

    def __init__(self, world: World) -> None:
        self.cards, self.contexts = world.cards, world.graph.contexts
        joint, self.tables = world.joint(), []
        for i, context in enumerate(self.contexts):
            kept = [*context, i]
            table = joint.sum(tuple(j for j in range(joint.ndim) if j not in kept))
            # the axes left are in the graph's order; the column's own goes last
            axes = sorted(kept)
            table = np.moveaxis(table, axes.index(i), -1)
            self.tables.append(table / table.sum(-1, keepdims=True))

    def __call__(self, column: int, contexts: Codes) -> Floats:
        table: Floats = self.tables[column][tuple(contexts.T)] if contexts.shape[1] else self.tables[column]
        return np.broadcast_to(table, (len(contexts), self.cards[column]))


KIDNEY = {
    ("small", "A"): (81, 87),
    ("large", "A"): (192, 263),
    ("small", "B"): (234, 270),
    ("large", "B"): (55, 80),
}  # recovered, of all: C. R. Charig et al., 1986
KIDNEY_GRAPH = "stone -> treatment\nstone -> recovered\ntreatment -> recovered\n"


def kidney_csv() -> str:
    lines = ["stone,treatment,recovered"]
    for (stone, treatment), (recovered, all_) in KIDNEY.items():
        lines += [f"{stone},{treatment},yes"] * recovered + [f"{stone},{treatment},no"] * (all_ - recovered)
    return "\n".join(lines) + "\n"
