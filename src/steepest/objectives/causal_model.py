"""A trained causal model, asked in words: seeing beside doing, and why they differ.

model.ask("recovered | treatment=A")                      seeing
model.ask("recovered | do(treatment=A)")                  doing, with the seeing beside it
model.ask("recovered | do(treatment=A), stone=large")     doing, in a subgroup
model.ask("recovered | do(treatment=A|B)")                what it changes: two answers and their difference
model.sample(100, do={"treatment": "A"})                  rows of the changed world
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import networkx as nx

from steepest.config import nearest
from steepest.data.table import Table, listed
from steepest.errors import QueryError
from steepest.graph import Graph, Query, read_query, settle
from steepest.objectives.conditionals import Conditionals
from steepest.objectives.intervene import Answer, ask, draw_rows

UNSEEN_SHARE = 0.01  # of the rows, from which a missing overlap is told


@dataclass(frozen=True)
class Reply:
    """The answer to one question.

    Attributes:
        question: as it was understood.
        categories: of the asked column.
        answers: for each condition that was asked (one, or one a value of ``do``), the distribution.
        seen: the same with every ``do(x=a)`` read as ``x=a``; empty if nothing was set.
        why: why doing and seeing differ, or not.
        warnings: what makes the answer less sure than it looks.
    """

    question: Query
    categories: tuple[str, ...]
    answers: dict[str, Answer]
    seen: dict[str, Answer] = field(default_factory=dict)
    why: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def p(self) -> dict[str, float]:
        """Probabilities by category, where one condition was asked."""
        return self._only(self.answers)

    @property
    def p_seen(self) -> dict[str, float]:
        """What seeing would have said instead."""
        return self._only(self.seen)

    @property
    def difference(self) -> dict[str, float]:
        """First answer less second, by category, where two values were compared."""
        if len(self.answers) != 2:
            raise QueryError(f"a difference is one of two answers; {len(self.answers)} were asked for")
        first, second = self.answers.values()
        return dict(zip(self.categories, (first.p - second.p).tolist(), strict=True))

    def _only(self, answers: Mapping[str, Answer]) -> dict[str, float]:
        if len(answers) != 1:
            raise QueryError(f"{len(answers)} answers were given; take them from .answers or .seen")
        return dict(zip(self.categories, next(iter(answers.values())).p.tolist(), strict=True))


@dataclass(frozen=True)
class CausalModel:
    """Conditionals, the graph that joins them, and the table they came from.

    Attributes:
        table: its columns stand in the graph's order.
    """

    conditionals: Conditionals
    graph: Graph
    table: Table

    def ask(self, question: str, *, draws: int = 10_000, seed: int = 0, exact: bool | None = None) -> Reply:
        """Answer a question in words.

        Args:
            draws: where the answer is sampled.
            exact: whether to sum exactly; ``None``: where that is small.

        Raises:
            QueryError: it does not parse, names what is unknown, is not settled by the data, or conditions on what
                does not happen.
        """
        query = read_query(question)
        self._check_columns([query.target, *query.do, *query.given])
        given = {name: self._code(name, value) for name, value in query.given.items()}
        answers, seen, warnings = {}, {}, []
        for do in _settings(query):
            codes = {name: self._code(name, value) for name, value in do.items()}
            said = ", ".join([f"do({name}={value})" for name, value in do.items()] + _said(query.given))
            answers[said or "everywhere"] = ask(
                self.conditionals, self.graph, query.target, do=codes, given=given, draws=draws, seed=seed,
                exact=exact,
            )  # fmt: skip
            warnings += self._unseen(query.target, codes, given)
            if do:
                known = ", ".join(_said({**do, **query.given}))
                try:
                    seen[known] = ask(
                        self.conditionals, self.graph, query.target, given={**codes, **given}, draws=draws, seed=seed,
                        exact=exact,
                    )  # fmt: skip
                except QueryError as error:
                    warnings.append(f"no seeing beside it: {error}")
        why = self._why(query) if query.do else ""
        return Reply(
            query, self.table.schema.categories[self.graph.index[query.target]], answers, seen, why,
            tuple(dict.fromkeys(warnings)),
        )  # fmt: skip

    def sample(self, n: int, *, do: Mapping[str, str] | None = None, seed: int = 0) -> list[dict[str, str]]:
        """Rows from the model, or from the world where some columns are set."""
        if n < 1:
            raise QueryError(f"expected at least one row to draw; got {n}")
        do = dict(do or {})
        self._check_columns(list(do))
        codes = {name: self._code(name, value) for name, value in do.items()}
        rows = draw_rows(self.conditionals, self.graph, n, do=codes, seed=seed)
        names = self.table.schema.categories
        return [{name: names[i][row[i]] for i, name in enumerate(self.graph.order)} for row in rows.tolist()]

    def _check_columns(self, names: list[str]) -> None:
        for name in names:
            if name not in self.graph.index:
                raise QueryError(
                    f'no column "{name}"{nearest(name, self.graph.order)}; the columns are {listed(self.graph.order, 40)}'
                )

    def _code(self, column: str, value: str) -> int:
        code = self.table.schema.code(column, value)
        if code is None:
            known = self.table.schema.categories[self.graph.index[column]]
            raise QueryError(
                f'column "{column}" never had the value "{value}"{nearest(value, known)}; known: {listed(known, 20)}'
            )
        return code

    def _unseen(self, target: str, do: Mapping[str, int], given: Mapping[str, int]) -> list[str]:
        """Where a column would have to be predicted from values never seen together."""
        rows = self.table.codes
        for name, code in given.items():
            rows = rows[rows[:, self.graph.index[name]] == code]
        if not len(rows):
            return [
                f"no row of the table has {' and '.join(given)} as asked: the answer is the model's guess"
            ]
        warnings = []
        plan = settle(self.graph, target, do, given)
        for name in plan.columns:
            context = self.conditionals.contexts[self.graph.index[name]]
            set_ = [place for place, j in enumerate(context) if self.graph.order[j] in plan.fixed[name]]
            if not set_:
                continue
            asked = rows[:, list(context)].copy()
            for place in set_:
                asked[:, place] = do[self.graph.order[context[place]]]
            share = float((self.conditionals.counts.rows(self.graph.index[name], asked).sum(1) == 0).mean())
            if share >= UNSEEN_SHARE:
                setting = ", ".join(
                    f"{each}={self.table.schema.categories[self.graph.index[each]][do[each]]}"
                    for each in sorted(plan.fixed[name])
                )
                others = listed([self.graph.order[j] for p, j in enumerate(context) if p not in set_])
                warnings.append(
                    f"for {share:.0%} of the rows, {setting} was never seen together with their {others or 'values'}: what "
                    f"{name} would do there is the model's guess"
                )
        return warnings

    def _why(self, query: Query) -> str:
        """A sentence on why doing and seeing differ."""
        x, y = " and ".join(query.do), query.target
        whole = nx.DiGraph(self.graph.directed)
        for number, (a, b) in enumerate(self.graph.ties()):  # a hidden cause as a node of its own
            whole.add_edges_from([((number,), a), ((number,), b)])
        cut = whole.copy()
        cut.remove_edges_from([edge for edge in whole.edges if edge[0] in query.do])
        known = set(query.given)
        reached = {name for each in query.do for name in nx.descendants(self.graph.directed, each)}
        if y not in reached and not known & reached:
            return f"{x} is no cause of {y}: setting it changes nothing, seeing it may still tell of common causes."
        if nx.is_d_separator(cut, set(query.do), {y}, known):
            return f"seeing and doing agree: nothing acts on both {x} and {y} in another way" + (
                f" once {' and '.join(query.given)} is known." if known else "."
            )
        causes = {name for each in query.do for name in nx.ancestors(cut, each)}
        common = [name for name in self.graph.order if name in causes & nx.ancestors(cut, y) - known]
        if any(isinstance(name, tuple) for name in causes & nx.ancestors(cut, y)):
            common.append("a hidden cause")
        if common:
            names = " and ".join(common)
            return (
                f"they differ because {names} acts on both {x} and {y}: who is seen with one value of {x} also differs "
                f"in that, while setting {x} leaves it as it is."
            )
        return (
            f"they differ because what is known ({', '.join(query.given)}) is an effect that ties {x} to {y}."
        )


def _settings(query: Query) -> list[dict[str, str]]:
    """One setting of all columns for each value that is compared."""
    widest = max(map(len, query.do.values()), default=1)
    return [
        {name: values[k] if len(values) > 1 else values[0] for name, values in query.do.items()}
        for k in range(widest)
    ]


def _said(given: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in given.items()]
