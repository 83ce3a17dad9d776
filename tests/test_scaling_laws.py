"""Laws recovered from points that published laws made; formulas against their closed forms and limits."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize_scalar, nnls

from steepest.errors import DataError
from steepest.scaling import (
    BESIROGLU,
    HOFFMANN,
    KAPLAN,
    ChinchillaLaw,
    Points,
    compute_frontier,
    effective_tokens,
    fit_by_projection,
    fit_huber,
    frontier_size,
    isoflop_minima,
    join,
    muennighoff,
)
from steepest.scaling.huber import log_sum_exp_objective
from steepest.scaling.variable_projection import nonnegative


def grid_of_runs(law: ChinchillaLaw, noise: float = 0.0, seed: int = 0) -> Points:
    """Seven sizes by five lengths, as a table of runs would have them."""
    n, d = np.meshgrid(np.geomspace(1e8, 1e10, 7), np.geomspace(2e9, 3e11, 5))
    loss = law(n, d) * (1 + noise * np.random.default_rng(seed).normal(size=n.shape))
    return Points.of(n.ravel(), d.ravel(), loss.ravel())


@pytest.mark.parametrize("truth", [BESIROGLU, HOFFMANN])
@pytest.mark.parametrize("fit", [fit_huber, fit_by_projection])
def test_noiseless_points_give_their_law_back(truth: ChinchillaLaw, fit) -> None:
    found = fit(grid_of_runs(truth))
    assert found.floor == pytest.approx(truth.floor, abs=2e-4)
    assert (found.alpha, found.beta) == pytest.approx((truth.alpha, truth.beta), abs=3e-4)
    assert found(7e10, 1.4e12) == pytest.approx(truth(7e10, 1.4e12), rel=1e-4)


def test_huber_passes_over_outliers_that_move_least_squares() -> None:
    points = grid_of_runs(BESIROGLU)
    spoiled = points.loss.copy()
    spoiled[[3, 11, 20]] *= 1.1
    spoiled_points = Points.of(points.n, points.d, spoiled)
    assert fit_huber(spoiled_points).beta == pytest.approx(BESIROGLU.beta, abs=5e-3)
    assert abs(fit_by_projection(spoiled_points).beta - BESIROGLU.beta) > 2e-2


def test_reweighted_projection_and_log_sum_exp_are_the_same_estimator() -> None:
    """Huber on the relative error and Huber on the logarithm agree to first order; the searches share no code."""
    points = grid_of_runs(BESIROGLU, noise=0.004)
    first, second = fit_by_projection(points, huber=1e-3), fit_huber(points)
    assert first.alpha == pytest.approx(second.alpha, abs=6e-3)
    assert first(1e11, 2e12) == pytest.approx(second(1e11, 2e12), rel=3e-3)


def test_objective_and_gradient_of_log_sum_exp() -> None:
    points = grid_of_runs(BESIROGLU, noise=0.01)
    logs = np.log(points.n), np.log(points.d), np.log(points.loss)
    at = np.array([6.0, 7.0, 0.5, 0.34, 0.36])
    a, b, e, alpha, beta = at
    law = ChinchillaLaw.published(np.exp(e), np.exp(a), np.exp(b), alpha, beta)
    error = np.log(law(points.n, points.d)) - logs[2]
    plain = np.where(np.abs(error) <= 1e-2, error**2 / 2, 1e-2 * (np.abs(error) - 5e-3)).sum()
    value, gradient = log_sum_exp_objective(at, *logs, 1e-2)
    assert value == pytest.approx(plain, rel=1e-12)
    numeric = approx_fprime(at, lambda x: log_sum_exp_objective(x, *logs, 1e-2)[0], 1e-7)
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-4)


def test_tied_exponents_in_absolute_error_recover_a_tied_law() -> None:
    truth = ChinchillaLaw.published(1.6, 200.0, 900.0, 0.28, 0.28)
    points = grid_of_runs(truth).take([0, 8, 16, 24, 31])
    found = fit_by_projection(points, tied=True, absolute=True)
    assert found.alpha == found.beta == pytest.approx(0.28, abs=1e-4)


def test_nonnegative_least_squares_is_scipys() -> None:
    dice = np.random.default_rng(3)
    for _ in range(200):
        columns, target = dice.normal(size=(8, 3)), dice.normal(size=8)
        solution, norm = nnls(columns, target)
        rest, found = nonnegative(columns, target)
        assert rest == pytest.approx(norm**2, rel=1e-9)
        assert found == pytest.approx(solution, abs=1e-9)


def test_optimum_is_where_the_loss_is_least_along_a_budget() -> None:
    for compute in (1e18, 1e21, 5.76e23):
        n, d = BESIROGLU.optimal(compute)
        assert 6 * n * d == pytest.approx(compute)
        searched = minimize_scalar(
            lambda x, c=compute: float(BESIROGLU(np.exp(x), c / 6 / np.exp(x))),
            bounds=(10, 30), method="bounded", options={"xatol": 1e-9},
        ).x  # fmt: skip
        assert np.log(n) == pytest.approx(searched, abs=1e-4)


def test_published_figures() -> None:
    """Chinchilla's own model by Chinchilla's constants, and that it beats Gopher at the same compute."""
    assert float(HOFFMANN(70e9, 1.4e12)) == pytest.approx(1.9366, abs=1e-3)
    assert HOFFMANN(70e9, 1.4e12) < HOFFMANN(280e9, 3e11)
    assert float(KAPLAN(1e9, 1e30)) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)  # data without end
    assert float(KAPLAN(1e30, 1e9)) == pytest.approx(
        (1.8e13 / 1e9) ** 0.103, rel=1e-6
    )  # parameters without end


def test_the_reference_point_is_only_a_way_of_writing() -> None:
    moved = BESIROGLU.at(3e7, 5e8)
    assert moved(2e9, 7e10) == pytest.approx(BESIROGLU(2e9, 7e10), rel=1e-12)
    assert moved.floor + moved.size_term + moved.data_term == pytest.approx(BESIROGLU(3e7, 5e8), rel=1e-12)


def test_effective_tokens() -> None:
    unique = 1e9
    assert effective_tokens([1e8, 1e9], unique).tolist() == [1e8, 1e9]
    slope = (effective_tokens(unique * 1.001, unique) - unique) / (0.001 * unique)
    assert slope == pytest.approx(1.0, abs=1e-3)  # the second pass begins as good as fresh
    assert effective_tokens(1e30, unique) == pytest.approx(16 * unique)
    assert effective_tokens(4e9, unique) / 4e9 == pytest.approx(
        0.93, abs=0.01
    )  # four passes are nearly fresh
    passes = np.diff(effective_tokens(unique * np.arange(1, 60), unique))
    assert (np.diff(passes) < 0).all()


def test_muennighoff_equals_chinchilla_without_repeats_and_is_worse_with() -> None:
    n, d = BESIROGLU.optimal(1e21)
    assert muennighoff(BESIROGLU, 0.9 * n, d, d) == pytest.approx(BESIROGLU(0.9 * n, d), rel=1e-12)
    assert muennighoff(BESIROGLU, n, d, d / 10) > BESIROGLU(n, d)
    assert muennighoff(BESIROGLU, 30 * n, d, d) > BESIROGLU(
        30 * n, d
    )  # more parameters than the tokens can use


def test_isoflop_minima_find_the_published_exponent() -> None:
    budgets = np.geomspace(1e19, 1e21, 5)
    sizes = [BESIROGLU.optimal(c)[0] * np.geomspace(0.3, 3, 9) for c in budgets]
    points = join(
        Points.of(n, c / 6 / n, BESIROGLU(n, c / 6 / n)) for n, c in zip(sizes, budgets, strict=True)
    )
    law = frontier_size(isoflop_minima(points))
    assert law.exponent == pytest.approx(BESIROGLU.beta / (BESIROGLU.alpha + BESIROGLU.beta), abs=0.01)
    assert law(1e20) == pytest.approx(BESIROGLU.optimal(1e20)[0], rel=0.05)


def test_isoflop_minimum_at_the_edge_is_refused() -> None:
    n = np.geomspace(1e9, 1e10, 5)  # all above the optimum of 1e19
    with pytest.raises(DataError, match="needs one compute at which at least 3 sizes"):
        isoflop_minima(Points.of(n, 1e19 / 6 / n, BESIROGLU(n, 1e19 / 6 / n)))


def test_frontier_leaves_out_beaten_runs() -> None:
    points = grid_of_runs(BESIROGLU)
    best, law = compute_frontier(points)
    for i in range(len(best)):
        cheaper = points.compute <= best.compute[i]
        assert best.loss[i] == points.loss[cheaper].min()
    assert law is not None and law(float(best.compute[-1])) == pytest.approx(best.loss[-1], rel=0.01)


@pytest.mark.parametrize(
    ("n", "d", "loss", "told"),
    [
        ([1e6, -2e6], [1e7, 1e7], [3, 2], "row 2: parameters is -2e\\+06"),
        ([1e6, 2e6], [1e7, float("nan")], [3, 2], "row 2: tokens is nan"),
        ([1e6, 2e6], [1e7, 2e7], [0.0, 0.0], "row 1: loss is 0 \\(and 1 more row"),
        ([1e6, 2e6], [1e7], [3, 2], "as many values of tokens as of parameters; got 1 and 2"),
    ],
)
def test_points_that_cannot_be_meant_are_named(n: list, d: list, loss: list, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Points.of(n, d, loss)


def test_too_few_points_say_what_would_do() -> None:
    three = Points.of([1e6, 1e6, 1e6], [1e7, 2e7, 4e7], [4, 3.8, 3.7])
    with pytest.raises(
        DataError, match="at least 5 runs of at least 2 sizes; got 3 runs of 1 size: add 2 runs"
    ):
        fit_by_projection(three)
