"""Exact answers: sum a product of tables over all columns but some, one column after the other.

    p(y) = sum over x_1 ... x_n of prod_i f_i,      eliminated one x at a time: only the factors that hold x are
                                                    multiplied before x is summed out

The next column is the one whose product is smallest (greedy); ``cost_of`` says how large the largest would be before
anything is computed. Tables are numpy arrays, an axis a column.

Source: N. L. Zhang and D. Poole, "A simple approach to Bayesian network computations", 1994.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Variable = Hashable


@dataclass(frozen=True)
class Factor:
    """A table over some variables, one axis each."""

    variables: tuple[Variable, ...]
    table: Floats

    def fix(self, values: Mapping[Variable, int]) -> "Factor":
        """The same table where some variables have these values.

        >>> Factor(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]])).fix({"a": 1}).table
        array([3., 4.])
        """
        index = tuple(values.get(name, slice(None)) for name in self.variables)
        return Factor(tuple(name for name in self.variables if name not in values), self.table[index])


def sum_out(factors: Sequence[Factor], keep: Sequence[Variable]) -> Floats:
    """The sum of the product of factors over all variables but ``keep``, whose axes come in that order.

    >>> p_a, p_b = Factor(("a",), np.array([0.5, 0.5])), Factor(("a", "b"), np.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> sum_out([p_a, p_b], ["b"])
    array([0.55, 0.45])
    """
    left = list(factors)
    for name in _elimination([factor.variables for factor in left], keep, _sizes(left))[0]:
        touched = [factor for factor in left if name in factor.variables]
        product = _multiply(touched)
        axis = product.variables.index(name)
        rest = product.variables[:axis] + product.variables[axis + 1 :]
        left = [factor for factor in left if name not in factor.variables]
        left.append(Factor(rest, product.table.sum(axis)))
    product = _multiply([*left, Factor((), np.array(1.0))])
    return np.transpose(product.table, [product.variables.index(name) for name in keep])


def cost_of(
    scopes: Sequence[Sequence[Variable]], keep: Sequence[Variable], sizes: Mapping[Variable, int]
) -> float:
    """Cells of the largest product that ``sum_out`` would make.

    >>> cost_of([("a",), ("a", "b"), ("b", "c")], ["c"], {"a": 2, "b": 3, "c": 4})
    12.0
    """
    return _elimination(scopes, keep, sizes)[1]


def _sizes(factors: Sequence[Factor]) -> dict[Variable, int]:
    return {
        name: size
        for factor in factors
        for name, size in zip(factor.variables, factor.table.shape, strict=True)
    }


def _elimination(
    scopes: Sequence[Collection[Variable]], keep: Sequence[Variable], sizes: Mapping[Variable, int]
) -> tuple[list[Variable], float]:
    """The greedy order, and the cells of its largest product."""
    left = [frozenset(scope) for scope in scopes]
    names = list(dict.fromkeys(name for scope in scopes for name in scope if name not in keep))
    order: list[Variable] = []
    worst = float(math.prod(sizes[name] for name in keep))
    while names:
        merged = {name: frozenset().union(*(scope for scope in left if name in scope)) for name in names}
        cells = {name: float(math.prod(sizes[each] for each in merged[name])) for name in names}
        best = min(names, key=lambda name: cells[name])
        worst = max(worst, cells[best])
        left = [scope for scope in left if best not in scope] + [merged[best] - {best}]
        names.remove(best)
        order.append(best)
    return order, worst


def _multiply(factors: Sequence[Factor]) -> Factor:
    """The product over the union of the variables, smallest tables first."""
    names = tuple(dict.fromkeys(name for factor in factors for name in factor.variables))
    table = np.ones((1,) * len(names))
    for factor in sorted(factors, key=lambda factor: factor.table.size):
        place = [names.index(name) for name in factor.variables]
        shape = [1] * len(names)
        for axis, size in zip(place, factor.table.shape, strict=True):
            shape[axis] = size
        table = table * np.transpose(factor.table, np.argsort(place)).reshape(shape)
    return Factor(names, table)
