"""Counting against counts by hand, and blending: as good as the best of its parts, on rows it has not seen."""

import itertools

import numpy as np
import pytest

from causal_worlds import World
from steepest.data.questions import Questions, distinct
from steepest.graph import Graph
from steepest.objectives.conditionals import CANDIDATES, Conditionals, candidates, fit_weights, maximise
from steepest.objectives.counting import Counts, n_cells
from steepest.objectives.intervene import table_of

GRAPH = Graph([("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")])
CARDS = (3, 2, 4, 2)


def rows_of(n: int, seed: int = 0) -> np.ndarray:
    return World.random(GRAPH, 0, CARDS).sample(n, seed)


def test_counts_are_those_of_the_rows() -> None:
    rows = rows_of(200)
    counts = Counts(Questions(rows, CARDS, GRAPH.contexts))
    for i, context in enumerate(GRAPH.contexts):
        for codes in itertools.product(*(range(CARDS[j]) for j in context)):
            hit = (rows[:, list(context)] == np.array(codes, dtype=np.int64)).all(1)
            by_hand = np.bincount(rows[hit, i], minlength=CARDS[i])
            asked = np.array([codes], dtype=np.int64).reshape(1, len(context))
            np.testing.assert_array_equal(counts.rows(i, asked)[0], by_hand)
            marginal = (np.bincount(rows[:, i], minlength=CARDS[i]) + 0.5) / (200 + 0.5 * CARDS[i])
            np.testing.assert_allclose(counts.shrunk(i, asked)[0], (by_hand + marginal) / (by_hand.sum() + 1))
            share = 5 / np.prod([CARDS[j] for j in context])
            np.testing.assert_allclose(
                counts.bdeu(i, asked)[0], (by_hand + share / CARDS[i]) / (by_hand.sum() + share)
            )
    assert n_cells(CARDS, GRAPH.contexts) == 3 + 3 * 2 + 6 * 4 + 4 * 2


def test_many_columns_do_not_overflow() -> None:
    dice = np.random.default_rng(0)
    rows = dice.integers(0, 1000, size=(50, 40))
    which, first = distinct(np.concatenate([rows, rows]))
    assert len(first) == 50 and (which[:50] == which[50:]).all()
    assert (np.concatenate([rows, rows])[first][which[:50]] == rows).all()


def test_weights_find_the_better_of_two_and_a_mixture_where_both_know_something() -> None:
    dice = np.random.default_rng(0)
    truth = dice.dirichlet([1, 1, 1], size=400)
    answer = np.array([dice.choice(3, p=p) for p in truth])
    good, flat = truth[np.arange(400), answer], np.full(400, 1 / 3)
    weights = fit_weights([np.stack([good, flat], 1), np.stack([flat, good], 1)], [np.ones(400)] * 2)
    assert weights[0, 0] > 0.8 and weights[1, 1] > 0.8
    np.testing.assert_allclose(weights.sum(1), 1)
    # two experts, each right on half of the rows: together they beat either
    half = np.arange(400) % 2 == 0
    experts = np.stack([np.where(half, good, flat), np.where(half, flat, good)], 1)
    (mixed,) = fit_weights([experts], [np.ones(400)])
    assert np.log(experts @ mixed).mean() > np.log(experts).mean(0).max()


def test_weights_are_the_maximum_by_another_way() -> None:
    dice = np.random.default_rng(1)
    likelihood, rows = dice.uniform(0.05, 1, size=(30, 3)), dice.integers(1, 5, 30).astype(float)
    found = maximise(likelihood, rows, np.full(3, 1 / 3), 0.0)
    grid = [np.array([a, b, 1 - a - b]) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    best = max(float(rows @ np.log(likelihood @ weights)) for weights in grid)
    assert float(rows @ np.log(likelihood @ found)) == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("knows", ["truth", "nothing"])
def test_the_blend_is_never_worse_than_its_better_half_beyond_noise(knows: str) -> None:
    world = World.random(GRAPH, 0, CARDS)
    train, held, test = world.sample(300, 1), world.sample(300, 2), world.sample(20000, 3)
    counts = Counts(Questions(train, CARDS, GRAPH.contexts))

    def network(column: int, contexts: np.ndarray) -> np.ndarray:
        if knows == "nothing":
            return np.full((len(contexts), CARDS[column]), 1 / CARDS[column])
        table = world.tables[column]
        return np.broadcast_to(table[tuple(contexts.T)], (len(contexts), CARDS[column]))

    def likelihoods(rows: np.ndarray) -> list[np.ndarray]:
        found = []
        for i, context in enumerate(GRAPH.contexts):
            asked = rows[:, list(context)]
            answers = candidates(network(i, asked), counts, i, asked)
            found.append(answers[:, np.arange(len(rows)), rows[:, i]].T)
        return found

    weights = fit_weights(likelihoods(held), [np.ones(300)] * 4)
    judged = likelihoods(test)
    per_row = {name: sum(np.log(each[:, k]).mean() for each in judged) for k, name in enumerate(CANDIDATES)}
    blend = sum(np.log(each @ weight).mean() for each, weight in zip(judged, weights, strict=True))
    best = max(per_row["network"], per_row["shrunk counts"], per_row["BDeu"])
    assert blend > best - 0.01
    model = Conditionals(counts, network, weights)
    for i, context in enumerate(GRAPH.contexts):
        table = table_of(model, i)
        np.testing.assert_allclose(table.sum(-1), 1)
        assert table.shape == (*(CARDS[j] for j in context), CARDS[i])
        if context:
            np.testing.assert_allclose(table_of(model, i, {context[0]: 1}), table[1])
