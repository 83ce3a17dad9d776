"""The curve law: features against their definition, constants recovered, other schedules predicted."""

import numpy as np
import pytest

from steepest.errors import DataError
from steepest.optim import warmup_stable_decay
from steepest.scaling import fit_curve
from steepest.scaling.curve import features, rates_of, warmup_end

STEPS, PEAK = 2000, 0.01


def wsd(steps: int, cooldown: int):
    return lambda step: PEAK * warmup_stable_decay(step, steps, warmup=40, cooldown=cooldown)


def losses(rates: np.ndarray, noise: float = 0.0, seed: int = 0, start: float = 1.6) -> np.ndarray:
    """A run that obeys the law by its definition: loops, no filters."""
    memory, total, momentum, walked, fallen = 200.0, [], 0.0, 0.0, 0.0
    for step, rate in enumerate(rates):
        walked += rate
        change = (rates[step - 1] - rate) if step > warmup_end(rates) else 0.0
        momentum = (1 - 1 / memory) * momentum + change
        fallen += momentum
        total.append(2.0 + start * (walked / PEAK / 100) ** -0.45 - 0.12 * fallen / PEAK / memory)
    dice = np.random.default_rng(seed)
    return np.array(total) * (1 + noise * dice.normal(size=len(rates)))


def lines(rates: np.ndarray, loss: np.ndarray, every: int = 1) -> list[dict[str, float]]:
    """As a run logs them, with evaluations between."""
    made = [{"step": i + 1, "lr": rates[i], "loss": loss[i]} for i in range(0, len(rates), every)]
    return [*made[:3], {"step": made[2]["step"], "evaluation": {"loss": 9.0}}, *made[3:]]


def test_features_are_the_sums_they_say() -> None:
    rates = rates_of(wsd(300, 120), 300)
    walked, fallen = features(rates / PEAK, warmup_end(rates), 20.0, 300.0)
    momentum, total, slow = 0.0, 0.0, []
    for step in range(300):
        drop = (rates[step - 1] - rates[step]) / PEAK if step > warmup_end(rates) else 0.0
        momentum = 0.95 * momentum + drop
        total += momentum
        slow.append(total / 20)
    assert walked == pytest.approx(np.cumsum(rates) / PEAK / 300)
    assert fallen == pytest.approx(np.array(slow))


def test_a_run_half_way_through_its_cooldown_is_extrapolated() -> None:
    schedule = wsd(STEPS, 1200)
    rates = rates_of(schedule, STEPS)
    loss = losses(rates, noise=0.01)
    law = fit_curve(lines(rates[:1400], loss[:1400], every=3), memory=200.0)
    end = law.extrapolate(schedule, STEPS)
    assert end.median == pytest.approx(losses(rates)[-1], rel=0.02)
    assert end.low95 <= losses(rates)[-1] <= end.high95
    assert end.extrapolation == pytest.approx(STEPS / 1400, rel=2e-3)


def test_other_schedules_of_the_same_model_are_predicted() -> None:
    """Fitted on one constant run and one cooldown, it tells a longer run and a sharper cooldown."""
    flat, falling = rates_of(wsd(STEPS, 0), STEPS), rates_of(wsd(STEPS, 600), STEPS)
    law = fit_curve(
        lines(flat, losses(flat, 0.005), every=5), lines(falling, losses(falling, 0.005, seed=1), every=5),
        memory=200.0,
    )  # fmt: skip
    for steps, cooldown in ((2 * STEPS, 400), (STEPS, 1800), (3 * STEPS, 3000)):
        rates = rates_of(wsd(steps, cooldown), steps)
        truth = losses(rates)
        assert law.extrapolate(rates).median == pytest.approx(truth[-1], rel=0.01)
        assert law(rates)[steps // 2] == pytest.approx(truth[steps // 2], rel=0.01)


def test_a_finished_run_of_the_family_tells_what_a_cooldown_gives() -> None:
    """Before its own cooldown a run cannot know; with ``like`` it does, and says so by a narrower interval."""
    small, schedule = rates_of(wsd(STEPS, 600), STEPS), wsd(STEPS, 600)
    family = fit_curve(lines(small, losses(small, 0.003), every=4), memory=200.0)
    other = losses(small, 0.003, seed=3, start=1.4)
    seen = lines(small[:1200], other[:1200], every=4)
    alone, together = fit_curve(seen, memory=200.0), fit_curve(seen, like=family)
    truth = losses(small, start=1.4)[-1]
    told = together.extrapolate(schedule, STEPS)
    assert told.median == pytest.approx(truth, rel=0.01)
    blind = alone.extrapolate(schedule, STEPS)
    assert told.high80 - told.low80 < blind.high80 - blind.low80


def test_intervals_cover() -> None:
    schedule = wsd(STEPS, 1000)
    rates = rates_of(schedule, STEPS)
    truth, inside = losses(rates)[-1], 0
    for seed in range(30):
        law = fit_curve(lines(rates[:1500], losses(rates, 0.02, seed)[:1500], every=5), memory=200.0)
        told = law.extrapolate(schedule, STEPS)
        inside += told.low80 <= truth <= told.high80
        assert told.high80 / told.low80 < 1.1
    assert inside >= 21


def test_bad_histories() -> None:
    rates = np.full(100, PEAK)
    with pytest.raises(DataError, match="at least 12 losses to be extrapolated; got 5"):
        fit_curve(lines(rates[:5], losses(rates)[:5]))
    with pytest.raises(DataError, match="in order of their steps"):
        fit_curve([{"step": 2, "lr": 1.0, "loss": 2.0}, {"step": 1, "lr": 1.0, "loss": 2.0}])
    with pytest.raises(ValueError, match="needs the number of steps"):
        fit_curve(lines(rates, losses(rates))).extrapolate(lambda step: PEAK)
