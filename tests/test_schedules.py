"""Each schedule equals its formula; decisions join without a jump."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.errors import ConfigError
from steepest.optim import (
    Decision,
    OptimConfig,
    constant,
    cosine,
    linear,
    piecewise,
    step_schedule,
    warmup_stable_decay,
)

TOTAL, WARMUP, COOLDOWN, FINAL = 40, 7, 12, 0.1


def rise(step: int) -> float:
    return (step + 1) / (WARMUP + 1)


def test_constant_is_its_formula() -> None:
    for step in range(100):
        assert constant(step, warmup=WARMUP) == pytest.approx(rise(step) if step < WARMUP else 1)
        assert constant(step) == 1


def test_linear_is_its_formula() -> None:
    for step in range(TOTAL + 1):
        fall = FINAL + (1 - FINAL) * (TOTAL - step) / (TOTAL - WARMUP)
        expected = rise(step) if step < WARMUP else fall
        assert linear(step, TOTAL, warmup=WARMUP, final=FINAL) == pytest.approx(expected)


def test_cosine_is_its_formula() -> None:
    for step in range(TOTAL + 1):
        angle = math.pi * (step - WARMUP) / (TOTAL - WARMUP)
        expected = rise(step) if step < WARMUP else FINAL + (1 - FINAL) * math.cos(angle / 2) ** 2
        assert cosine(step, TOTAL, warmup=WARMUP, final=FINAL) == pytest.approx(expected)


def test_warmup_stable_decay_is_its_formula() -> None:
    for step in range(TOTAL + 1):
        fall = FINAL + (1 - FINAL) * (TOTAL - step) / COOLDOWN
        expected = rise(step) if step < WARMUP else 1 if step < TOTAL - COOLDOWN else fall
        value = warmup_stable_decay(step, TOTAL, warmup=WARMUP, cooldown=COOLDOWN, final=FINAL)
        assert value == pytest.approx(expected)
        assert warmup_stable_decay(step, TOTAL, warmup=WARMUP) == pytest.approx(constant(step, warmup=WARMUP))


def test_beyond_the_end_the_factor_stays() -> None:
    for step in (TOTAL, TOTAL + 1, 10 * TOTAL):
        assert linear(step, TOTAL, final=FINAL) == pytest.approx(FINAL)
        assert cosine(step, TOTAL, final=FINAL) == pytest.approx(FINAL)
        assert warmup_stable_decay(step, TOTAL, cooldown=COOLDOWN, final=FINAL) == pytest.approx(FINAL)


@given(
    st.sampled_from(["wsd", "linear", "cosine", "constant"]),
    st.integers(1, 300),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.floats(0, 1),
)
def test_a_configured_schedule_rises_holds_and_falls(
    name: str, total: int, warmup: float, cooldown: float, final: float
) -> None:
    config = OptimConfig(schedule=name, warmup=warmup, cooldown=cooldown, final_lr=final)  # type: ignore[arg-type]
    factor = step_schedule(config, total)
    factors = [factor(step) for step in range(total + 1)]
    assert all(0 < value <= 1 for value in factors[:-1])
    peak = factors.index(max(factors))
    assert peak == min(round(warmup * total), total - 1)
    assert factors[peak] == pytest.approx(1)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert all(a >= b - 1e-12 for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))
    if name in ("linear", "cosine"):
        assert factors[-1] == pytest.approx(final)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 step; got 0"):
        step_schedule(OptimConfig(), 0)


def test_decisions_write_every_schedule() -> None:
    """Warm-up and fall as two decisions give the closed forms exactly."""
    up = Decision(0, 1 / (WARMUP + 1), WARMUP)
    line = [up, Decision(TOTAL - COOLDOWN, 1.0, COOLDOWN, final=FINAL)]
    curve = [up, Decision(WARMUP, 1.0, TOTAL - WARMUP, final=FINAL, shape="cosine")]
    for step in range(TOTAL + 5):
        settings = {"warmup": WARMUP, "final": FINAL}
        expected = warmup_stable_decay(step, TOTAL, cooldown=COOLDOWN, **settings)
        assert piecewise(step, line) == pytest.approx(expected)
        assert piecewise(step, curve) == pytest.approx(cosine(step, TOTAL, **settings))


@given(st.integers(1, 100), st.integers(1, 99), st.sampled_from(["linear", "cosine"]), st.floats(0, 0.9))
def test_deciding_again_for_the_same_end_changes_nothing(
    remaining: int, at: int, shape: str, final: float
) -> None:
    first = Decision(10, 1.0, remaining, final=final, shape=shape)  # type: ignore[arg-type]
    at = min(at, remaining)
    again = Decision(10 + at, first.at(10 + at), remaining - at, final=final, shape=shape)  # type: ignore[arg-type]
    for step in range(10 + at, 10 + remaining + 3):
        assert again.at(step) == pytest.approx(first.at(step), abs=1e-6)


@given(st.floats(0.01, 1), st.integers(0, 50), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_a_decision_starts_where_it_says_and_ends_where_it_says(
    factor: float, remaining: int, final: float, shape: str
) -> None:
    final = min(final, factor)
    decision = Decision(5, factor, remaining, final=final, shape=shape)  # type: ignore[arg-type]
    if remaining:
        assert decision.at(5) == pytest.approx(factor)
    assert decision.at(5 + remaining) == pytest.approx(final, abs=1e-7)
    assert decision.at(500) == pytest.approx(final, abs=1e-7)


def test_a_step_before_all_decisions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no decision covers step 2"):
        piecewise(2, [Decision(3, 1.0, 1)])
