"""Seeing and doing against worlds of known truth, hidden causes and all; forty graphs whose answers are known."""

import itertools
import math

import numpy as np
import pytest

from causal_worlds import ExactModel, World
from steepest.errors import QueryError
from steepest.graph import Factor, Graph, cost_of, effects, read_graph, settle, sum_out
from steepest.objectives.intervene import ask, draw_rows, table_of

CONFOUNDED = "z -> x\nz -> y\nx -> y"
FRONT_DOOR = "x -> m -> y\nx <-> y"

# (graph, set, asked, known, settled by Tian's test). From Pearl 2009 (figures 3.1 to 3.9), Tian and Pearl 2002,
# Shpitser and Pearl 2006, or by their rules.
GRAPHS = [
    ("x -> y", "x", "y", "", True),
    (CONFOUNDED, "x", "y", "", True),
    (FRONT_DOOR, "x", "y", "", True),
    (FRONT_DOOR, "m", "y", "", True),
    ("x -> y\nx <-> y", "x", "y", "", False),  # the bow
    ("x -> m -> y\nx <-> m", "x", "y", "", False),  # the bow on the way
    ("z -> x -> y\nx <-> y", "x", "y", "", False),  # an instrument
    ("x -> m -> y\nm <-> y", "x", "y", "", True),
    ("x -> m -> y\nx <-> m\nx <-> y", "x", "y", "", False),
    (FRONT_DOOR + "\nz -> x\nz -> y", "x", "y", "", True),
    ("x -> y\nx <-> z\nz <-> y", "x", "y", "", True),  # M-bias: the collider is left alone
    ("x -> y -> z\nx <-> z", "x", "y", "", True),
    ("x -> z\nx -> y\nx <-> z", "x", "y", "", True),  # a bow beside the question
    ("x -> z\nx -> y\nx <-> z", "x", "z", "", False),
    ("w -> r -> x -> y\nw <-> x\nw <-> y", "x", "y", "", False),  # the napkin needs the full algorithm
    ("a -> b -> c -> d\nb <-> d", "b", "d", "", True),
    ("a -> b -> c -> d\nb <-> d", "a", "d", "", True),
    ("a -> b -> c -> d\nb <-> d", "c", "d", "", True),
    ("a -> b -> c\nb <-> c", "b", "c", "", False),
    ("a -> b -> c\nb <-> c", "a", "c", "", True),
    ("x -> m -> y\nx -> n -> y\nx <-> y", "x", "y", "", True),
    ("x -> m -> y\nx -> n -> y\nx <-> y\nx <-> m", "x", "y", "", False),
    ("x -> m -> y\nm <-> y\nx <-> y", "x", "y", "", False),
    ("z -> x -> y\nz <-> y", "x", "y", "", True),
    ("z -> x -> y\nz -> y\nz <-> x", "x", "y", "", True),
    ("z -> x -> y\nz <-> x\nz <-> y", "x", "y", "", False),
    ("z -> y\nx -> y\nx <-> z", "x", "y", "", True),
    ("z -> x\nz -> w\nx -> w\nx -> y\nw -> y", "x w", "y", "", True),
    ("x -> w\nx -> y\nw -> y\nx <-> w", "x w", "y", "", True),  # the tied child is set as well
    ("x -> w\nx -> y\nw -> y\nx <-> w", "x", "y", "", False),
    ("x -> w -> y\nx <-> y", "x w", "y", "", True),
    ("x -> y\nw -> y\nx <-> w", "x w", "y", "", True),
    ("x -> y\nw -> y\nw <-> y", "x w", "y", "", False),
    (FRONT_DOOR, "x", "y", "m", True),
    (CONFOUNDED, "x", "y", "z", True),
    ("y -> x\nx <-> y", "x", "y", "", True),  # an effect cannot change its cause
    ("x -> m -> y\nx <-> w\nw <-> y", "x", "y", "", True),
    ("x -> m -> y\nx <-> w\nw -> m", "x", "y", "", True),
    ("x -> m -> y\nx <-> w\nw <-> m", "x", "y", "", True),
    ("x -> m -> y\nx <-> w\nw <-> m\nw -> y", "x", "y", "", False),
    ("z -> x -> m -> y\nz <-> y\nx <-> y", "x", "y", "", True),
    ("a -> x -> m -> n -> y\nx <-> y\na <-> n", "x", "y", "", True),
    ("x -> m -> n -> y\nx <-> n\nn <-> y", "x", "y", "", True),
    ("x -> y\nx -> w\ny <-> w", "x", "y", "w", True),
]  # fmt: skip


def test_there_are_forty() -> None:
    assert len(GRAPHS) >= 40


@pytest.mark.parametrize(("text", "do", "y", "known", "settled"), GRAPHS)
def test_what_is_settled_has_the_true_value_and_the_rest_is_refused(
    text: str, do: str, y: str, known: str, settled: bool
) -> None:
    graph = read_graph(text)
    cards = [2 + i % 2 for i in range(len(graph))]
    if not settled:
        with pytest.raises(QueryError, match="data do not settle") as caught:
            settle(graph, y, do.split(), known.split())
        culprits = [(x, c) for x in do.split() for c in graph.children(x) if c in graph.tied(x)]
        assert any(
            f"{x} -> {c}:" in str(caught.value) and f"do({x})" in str(caught.value) for x, c in culprits
        )
        return
    for seed in range(3):
        world = World.random(graph, seed, cards)
        model = ExactModel(world)
        for codes in itertools.product(*(range(cards[graph.index[x]]) for x in do.split())):
            setting = dict(zip(do.split(), codes, strict=True))
            given = dict.fromkeys(known.split(), 1)
            truth = world.answer(y, setting, given)
            found = ask(model, graph, y, do=setting, given=given, exact=True)
            np.testing.assert_allclose(found.p, truth, atol=1e-12)
            seen = ask(model, graph, y, given={**setting, **given}, exact=True)
            np.testing.assert_allclose(seen.p, world.answer(y, {}, {**setting, **given}), atol=1e-12)


@pytest.mark.parametrize("text", [FRONT_DOOR, CONFOUNDED, "z -> x -> m -> y\nz <-> y\nx <-> y"])
@pytest.mark.parametrize("given", [{}, {"m": 1}, {"z": 0}])
def test_draws_agree_with_the_sum_within_their_standard_error(text: str, given: dict[str, int]) -> None:
    graph = read_graph(text)
    given = {name: code for name, code in given.items() if name in graph.index}
    model = ExactModel(World.random(graph, 5))
    misses = []
    for seed in range(8):
        exact = ask(model, graph, "y", do={"x": 1}, given=given, exact=True)
        drawn = ask(model, graph, "y", do={"x": 1}, given=given, exact=False, draws=4000, seed=seed)
        assert exact.error is None and drawn.error is not None
        misses.append((drawn.p - exact.p)[0] / max(drawn.error[0], 1e-9))
    assert np.abs(misses).max() < 4 and np.std(misses) < 2.5
    assert np.std(misses) > 0.2 or drawn.error.max() < 1e-9  # with z known nothing is left to chance


def test_evidence_below_the_question_weighs_the_draws() -> None:
    graph = read_graph("y -> z\nx -> y")
    model = ExactModel(World.random(graph, 1))
    exact = ask(model, graph, "y", given={"z": 1, "x": 0}, exact=True)
    drawn = ask(model, graph, "y", given={"z": 1, "x": 0}, exact=False, draws=20000)
    np.testing.assert_allclose(drawn.p, exact.p, atol=0.02)
    assert 100 < drawn.draws < 20000 and drawn.evidence == pytest.approx(exact.evidence, rel=0.05)


def test_rows_of_the_changed_world() -> None:
    graph = read_graph("z -> x -> m -> y\nz <-> y\nx <-> y")
    world = World.random(graph, 2)
    rows = draw_rows(ExactModel(world), graph, 40000, do={"x": 1}, seed=0)
    assert (rows[:, graph.index["x"]] == 1).all()
    joint = np.zeros(world.cards)
    np.add.at(joint, tuple(rows.T), 1 / len(rows))
    np.testing.assert_allclose(joint, world.joint({"x": 1}), atol=0.015)


def test_impossible_evidence_is_refused() -> None:
    graph = read_graph("x -> y")
    model = ExactModel(World.random(graph, 0))
    model.tables[graph.index["x"]] = np.array([1.0, 0.0])
    for exact in (True, False):
        with pytest.raises(QueryError, match="what is known of x does not happen"):
            ask(model, graph, "y", given={"x": 1}, exact=exact)
    model.tables[graph.index["y"]] = np.array([[1.0, 0.0], [0.0, 1.0]])
    model.tables[graph.index["x"]] = np.array([0.999, 0.001])
    with pytest.raises(QueryError, match="20,000 draws are worth"):
        ask(model, graph, "x", given={"y": 1}, exact=False, draws=20_000)


def test_a_set_column_without_ties_leaves_no_trace_of_its_causes() -> None:
    plan = settle(read_graph(CONFOUNDED), "y", ["x"])
    assert plan.columns == ("z", "y") and plan.fixed["y"] == {"x"}
    assert settle(read_graph("y -> x"), "y", ["x"]).acting == frozenset()


def test_a_refusal_says_which_column_to_leave_out() -> None:
    # z comes first in the order, so y's conditional was trained on it: without z the question is settled
    graph = Graph([("x", "y")], [("x", "z"), ("z", "y")], names=["z", "x", "y"])
    with pytest.raises(QueryError, match="they would without z, no cause of anything asked"):
        settle(graph, "y", ["x"])


def test_forcing_a_token_leaves_the_past_and_seeing_it_revises_it() -> None:
    text = World.random(Graph.complete(["t1", "t2", "t3"]), 4, (3, 3, 3))
    model = ExactModel(text)
    before = ask(model, text.graph, "t1").p
    np.testing.assert_allclose(ask(model, text.graph, "t1", do={"t2": 1}).p, before)
    assert np.abs(ask(model, text.graph, "t1", given={"t2": 1}).p - before).max() > 0.05
    # what comes after is the same either way once the whole past is known
    seen = ask(model, text.graph, "t3", given={"t1": 0, "t2": 1}).p
    np.testing.assert_allclose(ask(model, text.graph, "t3", do={"t2": 1}, given={"t1": 0}).p, seen)


def test_all_effects_of_a_graph() -> None:
    settled, refused = effects(read_graph("x -> m -> y\nx <-> m"))
    assert settled == [("m", "y")] and [(x, y) for x, y, _ in refused] == [("x", "m"), ("x", "y")]


@pytest.mark.parametrize("seed", range(5))
def test_elimination_is_the_sum_over_everything(seed: int) -> None:
    dice = np.random.default_rng(seed)
    sizes = {name: int(dice.integers(1, 4)) for name in "abcdef"}
    scopes = [tuple(dice.choice(list("abcdef"), size=dice.integers(1, 4), replace=False)) for _ in range(6)]
    factors = [Factor(scope, dice.random([sizes[name] for name in scope])) for scope in scopes]
    present = sorted({name for scope in scopes for name in scope})
    keep = [str(name) for name in dice.permutation(present)[:2]]
    letters = ",".join("".join(scope) for scope in scopes) + "->" + "".join(keep)
    truth = np.einsum(letters, *(factor.table for factor in factors))
    np.testing.assert_allclose(sum_out(factors, keep), truth, rtol=1e-12)
    assert cost_of(scopes, keep, sizes) <= np.prod([sizes[name] for name in present])


class OfTables(ExactModel):
    """The same of a world without hidden causes, too wide for its joint table."""

    def __init__(self, world: World) -> None:
        self.cards, self.contexts, self.tables = world.cards, world.graph.contexts, world.tables


def test_a_whole_row_of_many_columns_is_no_impossible_evidence() -> None:
    names = [f"c{at:02}" for at in range(40)]
    graph = read_graph("\n".join([*names, "c00 -> y", "c01 -> y"]))
    world = World.random(graph, 3)
    found = ask(OfTables(world), graph, "y", given=dict.fromkeys(names, 0))
    chances = [world.tables[graph.index[name]][0] for name in names]
    assert found.evidence == pytest.approx(math.prod(chances)) and found.evidence < 1e-9
    assert found.p == pytest.approx(world.tables[graph.index["y"]][0, 0])


def test_more_known_causes_than_an_array_has_dimensions() -> None:
    class Wide:
        """A column with 70 causes, of which all but one are known."""

        cards, contexts = [2] * 71, [()] * 70 + [tuple(range(70))]

        def __call__(self, column: int, contexts: np.ndarray) -> np.ndarray:
            p = 0.2 + 0.6 * contexts[:, -1] * contexts[:, 0]
            return np.column_stack([1 - p, p])

    table = table_of(Wide(), 70, dict.fromkeys(range(69), 1))  # type: ignore[arg-type]
    assert table == pytest.approx(np.array([[0.8, 0.2], [0.2, 0.8]]))
