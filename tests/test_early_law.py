"""The early law: exact on what it describes, honest about what it was not shown, and nothing beyond its place."""

import math

import numpy as np
import pytest

from steepest.errors import DataError
from steepest.scaling import Points, effective_tokens, fit_bayes, fit_early
from steepest.scaling.draws import widened
from steepest.scaling.early import TOGETHER, TOGETHER_SPREAD, trust

N, D = np.array([1e5, 1e5, 3e5, 3e5, 3e5]), np.array([2.5e5, 5e5, 2.5e5, 5e5, 1e6])


def world(together: float, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
    """Losses whose logarithm falls by 0.05 and 0.12 an e-fold, and by more the larger the other is."""
    x, t = np.log(np.asarray(n) / 2e5), np.log(np.asarray(d) / 4e5)
    return 2.2 * np.exp(0.05 - 0.05 * x - 0.12 * t - together * x * t)


@pytest.mark.parametrize("off", [-1.0, 0.0, 1.0])
def test_worlds_within_its_belief_lie_within_its_interval(off: float) -> None:
    together = TOGETHER + off * TOGETHER_SPREAD
    law = fit_early(Points.of(N, D, world(together, N, D)))
    true = float(world(together, 1e6, 5e6))
    draws = law.sample(1e6, 5e6)
    low, middle, high = np.quantile(draws, [0.1, 0.5, 0.9])
    assert low < true < high
    assert middle == pytest.approx(true, rel=0.003 + 0.025 * abs(off))
    assert np.mean(draws < true) == pytest.approx({0.0: 0.5, 1.0: 0.16, -1.0: 0.84}[off], abs=0.12)


def test_sums_and_products_of_powers_would_miss_it() -> None:
    points = Points.of(N, D, world(TOGETHER, N, D))
    true = float(world(TOGETHER, 1e6, 5e6))
    assert fit_bayes(points).predict(1e6, 5e6).median > 1.03 * true
    product = np.polynomial.polynomial.polyfit(np.log(N * D), np.log(points.loss), 1)
    assert math.exp(product[0] + product[1] * math.log(5e12)) > 1.03 * true


def test_one_draw_is_the_regression_given_its_own_c() -> None:
    dice = np.random.default_rng(0)
    loss = world(0.01, N, D) * (1 + 0.004 * dice.normal(size=N.size))
    law = fit_early(Points.of(N, D, loss))
    x, t = np.log(N / law.n0), np.log(D / law.d0)
    columns = np.column_stack([np.ones(5), -x, -t])
    for at in (0, 1000, 3999):
        exact = np.linalg.lstsq(columns, np.log(loss / law.scale) + law.together[at] * x * t, rcond=None)[0]
        spread = law.sigma[at] * np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
        assert (np.abs(law.coefficients[:, at] - exact) < 5 * spread).all()
    # All draws together: their middle is the regression's at the middle c, about the means of the runs.
    middle = fit_early(Points.of(N, D, world(TOGETHER, N, D))).coefficients.mean(axis=1)
    at_means = [0.05 + TOGETHER * math.log(law.d0 / 4e5), 0.12 + TOGETHER * math.log(law.n0 / 2e5)]
    assert middle[1:] == pytest.approx(at_means, rel=0.02)


def test_repeated_tokens_are_worth_less() -> None:
    law = fit_early(Points.of(N, D, world(TOGETHER, N, D)))
    fresh, repeated = law.expected(1e6, 5e6), law.expected(1e6, 5e6, 1e6)
    assert repeated > fresh
    worth = float(effective_tokens(5e6, 1e6, 2.0))  # as many parameters as tokens
    help_ = 1e6 / (1 + (1 - math.exp(-4 / 2)) / 12)  # four more passes, each worth less by exp(-1/2)
    assert repeated == pytest.approx(law.expected(help_, worth), rel=0.01)
    assert law.sample(1e6, 5e6, 1e6).std() > law.sample(help_, worth).std()  # how much less is not sure


def test_the_more_parameters_the_less_repeats_are_worth() -> None:
    law = fit_early(Points.of(N, D, world(TOGETHER, N, D)))
    for n, repeats in ((1e5, 2 * 10 ** (2 / 3)), (1e6, 2.0), (8e6, 0.5)):
        help_ = n / (1 + (1 - math.exp(-4 / repeats)) * n / 12e6)
        fresh = law.expected(help_, float(effective_tokens(5e6, 1e6, repeats)))
        assert law.expected(n, 5e6, 1e6) == pytest.approx(fresh, rel=0.012)
    # Short of the text, and without any limit to it, there is nothing to repeat.
    assert law.expected(8e6, 5e6, 5e6) == law.expected(8e6, 5e6) == law.expected(8e6, 5e6, 9e6)


@pytest.mark.parametrize("n", [1e5, 1e6, 3e6, 9e6])
def test_one_more_pass_does_no_harm(n: float) -> None:
    law = fit_early(Points.of(N, D, world(TOGETHER, N, D)))
    passes = np.linspace(0.5, 20, 40)
    losses = law.expected(n, passes * 1e6, np.minimum(passes, 1) * 1e6)
    assert (np.diff(losses) <= 0).all()
    assert losses[-1] < losses[1]


def test_rungs_that_repeat_their_text_are_fitted_for_what_it_is_worth() -> None:
    unique = 2e5
    fresh = effective_tokens(D, unique, 2 * (unique / N) ** (2 / 3))
    read = 1 - np.exp(-np.maximum(D / unique - 1, 0) / (2 * (unique / N) ** (2 / 3)))
    help_ = N / (1 + read * N / (12 * unique))
    law = fit_early(Points.of(N, D, world(TOGETHER, help_, fresh), unique=np.minimum(D, unique)))
    assert law.expected(1e6, 5e6) == pytest.approx(float(world(TOGETHER, 1e6, 5e6)), rel=0.02)


def test_a_multiplier_widens_and_the_same_seed_repeats() -> None:
    points = Points.of(N, D, world(TOGETHER, N, D))
    one, two = (widened(fit_early(points).sample(1e6, 5e6), k) for k in (1.0, 2.0))
    assert np.log(two / np.median(two)).std() == pytest.approx(
        2 * np.log(one / np.median(one)).std(), rel=1e-6
    )
    assert (widened(fit_early(points).sample(1e6, 5e6), 1.0) == one).all()


def test_it_gives_way_as_runs_grow() -> None:
    shares = trust([1e6, 8e6, 16e6, 32e6, 64e6, 1e9]).tolist()
    assert shares == sorted(shares, reverse=True) and shares[:2] == [1, 1] and shares[-2:] == [0, 0]
    assert shares[2] == pytest.approx(1 - math.log(2) / math.log(8))
    assert [float(trust(5e6, steady)) for steady in (1.3, 0.85, 0.75, 0.65, 0.1)] == pytest.approx(
        [1, 1, 0.5, 0, 0]
    )


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(DataError):
        fit_early(Points.of(N[:3], D[:3], world(TOGETHER, N[:3], D[:3])))
