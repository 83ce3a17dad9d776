"""The default fit: calibrated on laws drawn from its own prior, close to the truth on published ones."""

import numpy as np
import pytest

from steepest.errors import DataError
from steepest.scaling import BESIROGLU, HOFFMANN, ChinchillaLaw, Points, fit_bayes, fit_by_projection


def ladder(law: ChinchillaLaw, top: float, noise: float = 0.0, seed: int = 0) -> Points:
    """Six rungs at twenty tokens a parameter, each 2.5 times the compute of the last."""
    n = np.sqrt(top / 120 / 2.5 ** np.arange(6))
    dice = np.random.default_rng(seed)
    return Points.of(n, 20 * n, law(n, 20 * n) * (1 + noise * dice.normal(size=6)))


@pytest.mark.parametrize("law", [BESIROGLU, HOFFMANN])
def test_ladder_of_a_published_law_is_extrapolated(law: ChinchillaLaw) -> None:
    n = np.sqrt(1e21 / 120)
    told = fit_bayes(ladder(law, 1e21 / 15)).predict(n, 20 * n)
    assert told.median == pytest.approx(float(law(n, 20 * n)), rel=0.015)
    assert float(law(n, 20 * n)) in told
    assert told.extrapolation == pytest.approx(15, rel=1e-6)
    assert told.low95 < told.low80 < told.median < told.high80 < told.high95


def test_intervals_cover_what_they_say_on_laws_of_the_prior() -> None:
    """120 laws drawn from the prior, six noisy rungs each: the target lies in the 80 % interval 80 % of the time."""
    dice = np.random.default_rng(0)
    inside80 = inside95 = 0
    for trial in range(120):
        alpha, beta = 0.27 * np.exp(0.45 * dice.normal()), 0.27 * np.exp(0.42 * dice.normal())
        size, data = dice.uniform(0.1, 1.0, size=2)
        law = ChinchillaLaw(dice.uniform(0.3, 2.0), size, data, alpha, beta, 2.6e8, 5.2e9)
        n = np.sqrt(1e20 / 120)
        told = fit_bayes(ladder(law, 1e20 / 15, noise=0.004, seed=trial)).predict(n, 20 * n)
        reached = float(law(n, 20 * n)) * (1 + 0.004 * dice.normal())
        inside80 += reached in told
        inside95 += told.low95 <= reached <= told.high95
    assert 0.70 <= inside80 / 120 <= 0.93
    assert inside95 / 120 >= 0.90


def test_more_data_narrow_the_interval_and_the_law_wins_over_the_prior() -> None:
    n, d = np.meshgrid(np.geomspace(1e8, 1e10, 8), np.geomspace(2e9, 3e11, 8))
    loss = BESIROGLU(n, d) * (1 + 0.003 * np.random.default_rng(1).normal(size=n.shape))
    many = fit_bayes(Points.of(n.ravel(), d.ravel(), loss.ravel()))
    few = fit_bayes(ladder(BESIROGLU, 1e21, noise=0.003))
    assert many.alpha.std() < few.alpha.std() / 2
    assert many.alpha.mean() == pytest.approx(BESIROGLU.alpha, abs=0.03)
    wide, narrow = few.predict(1e11, 2e12), many.predict(1e11, 2e12)
    assert narrow.high80 - narrow.low80 < wide.high80 - wide.low80
    assert np.unique(many.floor).size > 1000  # draws, not one draw repeated


def test_it_beats_the_best_fit_on_noisy_ladders() -> None:
    n = np.sqrt(1e21 / 120)
    truth = float(BESIROGLU(n, 20 * n))
    ours, best = [], []
    for seed in range(25):
        points = ladder(BESIROGLU, 1e21 / 15, noise=0.005, seed=seed)
        ours.append(abs(fit_bayes(points).predict(n, 20 * n).median / truth - 1))
        best.append(abs(float(fit_by_projection(points)(n, 20 * n)) / truth - 1))
    assert np.median(ours) < np.median(best)
    assert np.quantile(ours, 0.9) < np.quantile(best, 0.9)


def test_same_points_and_seed_give_the_same_law() -> None:
    points = ladder(BESIROGLU, 1e20, noise=0.003)
    first, second = fit_bayes(points, seed=5), fit_bayes(points, seed=5)
    assert first.predict(1e9, 2e10) == second.predict(1e9, 2e10)


def test_unit_of_the_loss_does_not_matter() -> None:
    points = ladder(BESIROGLU, 1e20, noise=0.003)
    nats = fit_bayes(points).predict(1e9, 2e10)
    bits = fit_bayes(Points.of(points.n, points.d, points.loss / 3)).predict(1e9, 2e10)
    assert bits.median == pytest.approx(nats.median / 3, rel=2e-3)
    assert nats.scaled(1 / 3).high80 == pytest.approx(bits.high80, rel=4e-3)


def test_multiplier_widens_the_interval_about_the_same_median() -> None:
    points = ladder(BESIROGLU, 1e20, noise=0.003)
    one, two = fit_bayes(points).predict(1e9, 2e10), fit_bayes(points, multiplier=2.0).predict(1e9, 2e10)
    assert two.median == pytest.approx(one.median, rel=1e-9)
    assert np.log(two.high80 / two.median) == pytest.approx(2 * np.log(one.high80 / one.median), rel=1e-3)


def test_repeated_tokens_are_worth_less_and_less_certain() -> None:
    law = fit_bayes(ladder(BESIROGLU, 1e20))
    fresh, repeated = law.predict(1e9, 2e10), law.predict(1e9, 2e10, unique=1e9)
    assert repeated.median > fresh.median
    assert law.predict(1e9, 2e10, unique=2e10).median == pytest.approx(fresh.median, rel=1e-9)
    assert repeated.high80 - repeated.low80 > fresh.high80 - fresh.low80


def test_optimum_and_choice_minimise_the_expected_loss() -> None:
    n, d = np.meshgrid(np.geomspace(1e8, 1e10, 8), np.geomspace(2e9, 3e11, 8))
    law = fit_bayes(Points.of(n.ravel(), d.ravel(), BESIROGLU(n, d).ravel()))
    best_n, best_d = law.optimal(1e22)
    assert 6 * best_n * best_d == pytest.approx(1e22)
    assert np.log(best_n / BESIROGLU.optimal(1e22)[0]) == pytest.approx(0, abs=0.3)
    sizes = best_n * np.array([0.2, 1.0, 5.0])
    assert law.choose(sizes, 1e22 / 6 / sizes) == 1
    scarce_n, _ = law.optimal(1e22, unique=1e9)
    assert scarce_n > best_n  # where tokens repeat, parameters are the better buy


def test_three_points_or_one_size_are_refused() -> None:
    with pytest.raises(DataError, match="at least 4 runs of at least 2 sizes"):
        fit_bayes(Points.of([1e6, 2e6, 4e6], [2e7, 4e7, 8e7], [4, 3.7, 3.5]))
