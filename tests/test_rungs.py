"""Which rungs a number of seconds buys: near the run's own ratio, within the seconds, the same for other budgets."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.model.size import n_matrix_parameters
from steepest.planning.menu import Menu
from steepest.planning.promise import best_rate
from steepest.planning.rungs import Rung, design, rounded_tokens
from steepest.scaling.gate import APART

SIZES = [((2, 32), 90_000), ((1, 64), 180_000), ((2, 64), 225_000), ((1, 128), 460_000), ((2, 128), 660_000),
         ((4, 128), 1_060_000), ((4, 192), 2_160_000), ((6, 256), 5_000_000)]  # fmt: skip


def cost(rungs: Sequence[Rung]) -> float:
    return sum(rung.tokens * (1e-5 + 5e-11 * rung.n) + 0.1 for rung in rungs)


def ladder(seconds: float, n: int = 1_060_000, tokens: float = 4e6, **more: object) -> list[Rung]:
    return design(SIZES, n=n, tokens=tokens, seconds=seconds, cost=cost, least_tokens=50_000, **more)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    seconds=st.floats(2, 400),
    ratio=st.floats(1.5, 25),
    size=st.integers(3, 7),
    alone=st.booleans(),
    most=st.floats(50_000, 1e7),
)
def test_a_ladder_fits_its_seconds_and_stands_for_the_run(
    seconds: float, ratio: float, size: int, alone: bool, most: float
) -> None:
    n = SIZES[size][1]
    rungs = ladder(seconds, n, ratio * n, alone=alone, most_tokens=most)
    assert cost(rungs) <= seconds
    assert len(set(rungs)) == len(rungs)
    if not rungs:
        return
    assert len(rungs) >= 4 and len({rung.n for rung in rungs}) >= 2
    assert max(rung.tokens for rung in rungs) <= most
    lengths = [rung.tokens for rung in rungs if rung.n == min(rung.n for rung in rungs)]
    assert max(lengths) >= APART * min(lengths)  # or the gate could not compare them
    assert all(rung.n < n for rung in rungs)
    assert all(rung.tokens == rounded_tokens(rung.tokens) for rung in rungs)
    # No rung is further from the run's tokens a parameter than the gate of the fit allows.
    assert all(rung.tokens / rung.n <= 6 * ratio or rung.tokens < 70_000 for rung in rungs)


def test_more_seconds_buy_larger_rungs_and_more_sizes() -> None:
    small, large = ladder(30), ladder(150)
    assert max(rung.n * rung.tokens for rung in large) > max(rung.n * rung.tokens for rung in small)
    assert len({rung.n for rung in large}) >= 4
    assert any(rung.seed == 1 for rung in large)  # how much is luck
    ratios = [rung.tokens / rung.n for rung in large]
    assert max(ratios) / min(ratios) > 3  # one is off the ratio


def test_too_few_seconds_buy_nothing() -> None:
    assert ladder(1.0) == []


def test_one_length_of_the_larger_sizes_costs_less_and_two_of_the_smallest_stay_for_the_gate() -> None:
    least = next(seconds for seconds in range(1, 100) if ladder(seconds))
    assert ladder(0.9 * least) == [] != ladder(0.9 * least, alone=True)
    rungs = ladder(0.9 * least, alone=True)
    smallest = min(rung.n for rung in rungs)
    lengths = {n: {rung.tokens for rung in rungs if rung.n == n} for n in {rung.n for rung in rungs}}
    assert len(lengths[smallest]) >= 2 and any(len(some) == 1 for some in lengths.values())


def test_finished_rungs_are_free() -> None:
    rungs = ladder(60)
    richer = ladder(60, have=rungs)
    assert cost([rung for rung in richer if rung not in rungs]) <= 60
    assert max(rung.n * rung.tokens for rung in richer) >= max(rung.n * rung.tokens for rung in rungs)


def test_another_budget_asks_for_rungs_of_the_same_grid() -> None:
    first, second = ladder(60), ladder(70, tokens=4.3e6)
    assert len(set(first) & set(second)) >= 3


def test_tokens_are_rounded_by_less_than_a_fifth() -> None:
    for tokens in (50_001, 123_456, 7_654_321):
        assert abs(math.log(rounded_tokens(tokens) / tokens)) <= math.log(2) / 4 + 1e-6


@pytest.mark.parametrize("best", [-0.8, -0.3, 0.0, 0.4, 0.9])
def test_the_optimum_of_a_parabola_is_found_and_rounded(best: float) -> None:
    losses = {at: 2.0 + 0.3 * (at - best) ** 2 for at in (-1.0, 0.0, 1.0)}
    found = math.log2(best_rate(losses))
    gain = 0.3 * best**2
    assert found == pytest.approx(0.0 if gain < 0.015 * losses[0.0] else best, abs=0.26)


def test_a_rate_is_not_trusted_beyond_what_was_tried() -> None:
    assert best_rate({-1.0: 3.0, 0.0: 2.5, 1.0: 2.1}) == 2.0
    assert best_rate({0.0: 2.5, 1.0: 2.1}) == 1.0


def test_a_menu_keeps_the_rule_without_a_law_and_scales_with_the_budget() -> None:
    from steepest.planning.rules import FAMILY, member

    models = tuple(member({"vocab_size": 256, "context": 64}, shape) for shape in FAMILY[:8])
    menu = Menu(models, tuple(3e12 / (6 * size) for size in range(10**6, 9 * 10**6, 10**6)), 10**9)
    assert menu.best(None) == menu.rule
    double = menu.with_budget(time=2.0, data=0.5)
    assert double.tokens[0] == 2 * menu.tokens[0] and double.unique == menu.unique // 2
    assert menu.up_to(3).sizes == menu.sizes[:3] and menu.only(2).sizes == menu.sizes[2:3]


def test_a_menu_holds_no_more_steps_than_the_user_allows() -> None:
    from steepest.planning.rules import FAMILY, default_batch_tokens, member

    models = tuple(member({"vocab_size": 256, "context": 64}, shape) for shape in FAMILY[:4])
    menu = Menu(models, (4e7, 3e6, 1e6, 2e5), 50_000, most_steps=500)
    for index, tokens in enumerate(
        menu.tokens
    ):  # as many as the rule's batch for so many tokens makes of 500 steps
        assert tokens == min(menu.bought[index], 500 * default_batch_tokens(64, int(tokens)))
        assert menu.batch(index) == default_batch_tokens(64, int(tokens))
    own = Menu(models, (4e7, 3e6, 1e6, 2e5), 50_000, most_steps=500, batch_tokens=1000)
    assert own.tokens == (5e5, 5e5, 5e5, 2e5) and own.batch(0) == 1000
    assert (
        Menu(models, (4e7,) * 4, 50_000, most_steps=10**6).tokens == (4e7,) * 4
    )  # seven passes, unless the user says more


def test_a_run_smaller_than_the_narrowest_rung_has_no_ladder() -> None:
    assert (
        design(
            [], n=30_000, tokens=1e6, seconds=60, cost=lambda rungs: 0.0, least_tokens=1, most_tokens=10**9
        )
        == []
    )


def test_a_short_text_is_not_read_for_ever_and_takes_no_large_model() -> None:
    from steepest.planning.rules import FAMILY, member

    models = tuple(member({"vocab_size": 256, "context": 64}, shape) for shape in FAMILY[:12])
    menu = Menu(models, tuple(1e14 / (6 * n_matrix_parameters(model)) for model in models), 50_000)
    assert menu.tokens == (350_000.0,) * 12 and menu.epochs(menu.rule) == 7.0
    assert 600_000 <= menu.sizes[menu.rule] < 900_000  # the first with twelve parameters a token
    richer = menu.with_budget(data=100.0)
    assert richer.tokens[-1] == menu.bought[-1] and richer.sizes[richer.rule] > menu.sizes[menu.rule]
