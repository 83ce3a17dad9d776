"""A timed run ends on time, annealed, whatever the machine does; and its decisions repeat it without a clock."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.errors import ConfigError
from steepest.optim import Decision, OptimConfig, piecewise, step_schedule
from steepest.train.deadline import DeadlineController, StepSchedule
from steepest.train.pace import Pace, StepTimeWatch

BUDGET = 100.0
Speed = Callable[[float, random.Random], float]  # share of the budget used -> slowness of the next step


@dataclass
class Run:
    factors: list[float] = field(default_factory=list)
    used: float = 0.0  # share of the budget
    longest: float = 0.0  # longest step, as a share of the budget
    events: list[dict[str, Any]] = field(default_factory=list)
    decisions: tuple[Decision, ...] = ()


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def simulate(
    speed: Speed, steps: float, *, known: bool = True, seed: int = 0, pause: float = 0.0, **settings: Any
) -> Run:
    """A run on a machine that would make ``steps`` steps at slowness 1; ``pause`` seconds pass every 10 steps."""
    clock, rng, run = FakeClock(), random.Random(seed), Run()
    usual = BUDGET / steps
    control = DeadlineController(
        OptimConfig(**settings), seconds=BUDGET, step_seconds=usual if known else None, clock=clock
    )
    while not control.done(len(run.factors)):
        run.factors.append(control.factor(len(run.factors)))
        seconds = usual * speed((clock.now - 1000) / BUDGET, rng)
        clock.now += seconds + (pause if len(run.factors) % 10 == 0 else 0)
        run.longest = max(run.longest, seconds / BUDGET)
        control.observe(len(run.factors), seconds)
        run.events += control.take_events()
    run.used, run.decisions = (clock.now - 1000) / BUDGET, tuple(control.decisions)
    return run


def between(start: float, end: float, slowness: float) -> Speed:
    return lambda used, rng: slowness if start < used < end else 1.0


SPEEDS: dict[str, Speed] = {
    "constant": lambda used, rng: 1.0,
    "3x slower in the middle": between(0.4, 0.7, 3),
    "20x slower early": between(0.0, 0.2, 20),
    "20x slower across the cooldown's start": between(0.4, 0.6, 20),
    "20x slower in the cooldown": between(0.6, 0.8, 20),
    "20x slower at the end": between(0.9, 9, 20),
    "noisy": lambda used, rng: math.exp(rng.gauss(0, 0.5)),
    "one step in 20 takes 10 times as long": lambda used, rng: 10.0 if rng.random() < 0.05 else 1.0,
    "becoming 6x faster": lambda used, rng: 3 - 2.5 * used,
    "becoming 6x slower": lambda used, rng: 0.5 + 2.5 * used,
    "20x faster in the end": between(0.0, 0.7, 20),
}


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine"])
@pytest.mark.parametrize("known", [True, False], ids=["estimate", "no estimate"])
@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS.keys())
def test_ends_on_time_and_annealed(speed: Speed, known: bool, schedule: str) -> None:
    run = simulate(speed, 2000, known=known, schedule=schedule)
    assert 0.95 <= run.used <= 1.02
    assert max(run.factors) == pytest.approx(1, abs=0.01)
    assert run.factors[-1] <= 0.04
    assert piecewise(len(run.factors), run.decisions) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("final_lr", [0.0, 0.1])
def test_constant_speed_is_the_step_schedule(final_lr: float) -> None:
    for schedule in ("wsd", "linear", "cosine"):
        config = OptimConfig(schedule=schedule, warmup=0.05, cooldown=0.4, final_lr=final_lr)
        run = simulate(SPEEDS["constant"], 1000, **config.model_dump(exclude_unset=True))
        expected = step_schedule(config, len(run.factors))
        assert len(run.factors) == pytest.approx(1000, abs=2)
        assert run.factors == pytest.approx([expected(s) for s in range(len(run.factors))], abs=0.02)


def test_constant_schedule_never_cools() -> None:
    for speed in SPEEDS.values():
        run = simulate(speed, 2000, schedule="constant")
        assert 0.97 <= run.used <= 1.02
        assert run.factors[-1] == 1


def test_warm_up_share_is_kept_when_the_estimate_is_wrong() -> None:
    for slowness in (0.2, 5.0):
        run = simulate(lambda used, rng, s=slowness: s, 2000, warmup=0.1)  # type: ignore[misc]
        top = next(step for step, factor in enumerate(run.factors) if factor == 1)
        assert top / len(run.factors) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("at", [0.0, 0.02, 0.2, 0.45, 0.55, 0.8, 0.89])
@pytest.mark.parametrize("steps", [50, 200, 2000])
def test_one_stall_of_a_tenth_of_the_budget(at: float, steps: int) -> None:
    stalled = False

    def speed(used: float, rng: random.Random) -> float:
        nonlocal stalled
        if used >= at and not stalled:
            stalled = True
            return 0.1 * steps
        return 1.0

    run = simulate(speed, steps)
    assert 0.95 <= run.used <= 1.02
    assert run.factors[-1] <= 0.02 + 4 / steps + (0.2 if at > 0.85 else 0)
    falls = [before - after for before, after in zip(run.factors, run.factors[1:], strict=False)]
    if at < 0.85:  # no panic: the rate never drops at once
        assert max(falls) <= 6 / steps


def test_a_stall_in_the_last_moment_stops_the_run() -> None:
    stalls = iter([1.0] * 97 + [20.0] * 10)
    run = simulate(lambda used, rng: next(stalls), 100)
    assert len(run.factors) == 98


@settings(max_examples=60, deadline=None)
@given(
    stretches=st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(1, 20)), min_size=1, max_size=8),
    steps=st.integers(300, 3000),
    known=st.booleans(),
    sigma=st.floats(0, 0.6),
    seed=st.integers(0, 1000),
)
def test_any_machine(
    stretches: list[tuple[float, float]], steps: int, known: bool, sigma: float, seed: int
) -> None:
    def speed(used: float, rng: random.Random) -> float:
        noise = math.exp(rng.gauss(0, sigma))
        for length, slowness in stretches:
            if used < length:
                return slowness * noise
            used -= length
        return noise

    run = simulate(speed, steps, known=known, seed=seed)
    assert run.used <= 1.015 + run.longest  # beyond the tolerance, only the step that was under way
    assert run.used >= 0.97 - 4 * run.longest
    assert run.factors[-1] <= (0.03 + 4 * run.longest) / 0.5
    assert all(0 < factor <= 1 for factor in run.factors)


def test_pauses_between_steps_are_planned_for() -> None:
    run = simulate(SPEEDS["constant"], 2000, pause=0.1)  # evaluations: a sixth of the time
    assert 0.98 <= run.used <= 1.02
    assert len(run.decisions) < 10


@pytest.mark.parametrize("steps", [0.3, 1, 1.4, 2, 3, 5, 8])
def test_very_few_steps(steps: float) -> None:
    run = simulate(SPEEDS["constant"], steps)
    assert len(run.factors) == max(1, math.floor(steps + 0.02))
    if len(run.factors) > 1:
        assert run.factors[-1] <= 0.5


def test_few_decisions_when_nothing_happens() -> None:
    assert len(simulate(SPEEDS["constant"], 3000).decisions) == 2
    assert len(simulate(SPEEDS["noisy"], 3000, cooldown=0.6).decisions) < 40


def test_events_name_the_decisions() -> None:
    run = simulate(SPEEDS["3x slower in the middle"], 500)
    kinds = [event["event"] for event in run.events if event["event"] != "step time jumped"]
    assert kinds[0] == "horizon fixed" and set(kinds[1:]) == {"horizon moved"}
    assert [Decision(**e["decision"]) for e in run.events if "decision" in e] == list(run.decisions[1:])
    json.dumps(run.events)


def test_decisions_repeat_the_run_without_a_clock() -> None:
    run = simulate(SPEEDS["noisy"], 700, schedule="cosine", known=False)
    decisions = [Decision(**json.loads(json.dumps(vars(d)))) for d in run.decisions]
    assert [piecewise(step, decisions) for step in range(len(run.factors))] == run.factors


def test_a_run_killed_and_resumed_repeats_what_was_decided() -> None:
    """Back to a state saved earlier, with the decisions made since from the events: the same factors again."""
    clock, rng = FakeClock(), random.Random(3)
    config = OptimConfig(schedule="linear")
    first = DeadlineController(config, seconds=BUDGET, step_seconds=0.1, clock=clock)
    factors: list[float] = []
    later: list[dict[str, Any]] = []
    state: dict[str, Any] = {}
    for step in range(600):
        factors.append(first.factor(step))
        seconds = 0.1 * math.exp(rng.gauss(0, 0.6))
        clock.now += seconds
        first.observe(step + 1, seconds)
        found = first.take_events()
        if step == 300:
            state = json.loads(json.dumps(first.state_dict()))
        elif step > 300:
            later += [event["decision"] for event in found if "decision" in event]
    assert len(later) > 2

    clock = FakeClock()
    second = DeadlineController(config, seconds=BUDGET, step_seconds=0.1, clock=clock)
    second.load_state_dict(state, repeat=json.loads(json.dumps(later)))
    assert second.elapsed == pytest.approx(state["elapsed"])
    last = later[-1]["step"]
    again = []
    for step in range(301, last + 1):
        again.append(second.factor(step))
        clock.now += 0.3  # another pace
        second.observe(step + 1, 0.3)
    assert again == factors[301 : last + 1]
    assert not [event for event in second.take_events() if event["event"] != "step time jumped"]
    second.observe(last + 2, 0.3)
    assert second.take_events()  # free again, and late


def test_state_survives_json_and_goes_on_alike() -> None:
    def fresh(clock: FakeClock) -> DeadlineController:
        return DeadlineController(OptimConfig(), seconds=BUDGET, clock=clock)

    for cut in (2, 100, 400, 700):
        rng, clock = random.Random(1), FakeClock()
        control, factors, step = fresh(clock), [], 0
        while not control.done(step):
            factors.append(control.factor(step))
            seconds = 0.125 * math.exp(rng.gauss(0, 0.4))
            clock.now += seconds
            step += 1
            control.observe(step, seconds)
            if step == cut:
                state = json.loads(json.dumps(control.state_dict()))
                clock = FakeClock()
                control = fresh(clock)
                control.load_state_dict(state)
        if cut == 2:
            expected = factors
        assert factors == pytest.approx(expected, abs=1e-9)


def test_the_deadline_can_be_moved() -> None:
    clock = FakeClock()
    control = DeadlineController(OptimConfig(), seconds=500, clock=clock)
    clock.now += 30  # before the first step: the plan begins anew
    control.set_seconds_left(BUDGET)
    step = 0
    while not control.done(step):
        clock.now += 0.1
        step += 1
        control.observe(step, 0.1)
        if step == 700:
            control.set_seconds_left(20.0)
    assert clock.now - 1030 == pytest.approx(90, abs=2)


def test_no_time_left_means_one_step() -> None:
    clock = FakeClock()
    control = DeadlineController(OptimConfig(), seconds=5, clock=clock)
    control.set_seconds_left(-3)
    assert not control.done(0)
    clock.now += 1
    control.observe(1, 1.0)
    assert control.done(1)


def test_wrong_budgets_and_states_are_refused() -> None:
    for seconds in (0, -1, math.inf, math.nan):
        with pytest.raises(ConfigError, match="time budget"):
            DeadlineController(OptimConfig(), seconds=seconds)
    state = StepSchedule(OptimConfig(), total_steps=10).state_dict()
    with pytest.raises(ConfigError, match="counts steps"):
        DeadlineController(OptimConfig(), seconds=1).load_state_dict(state)


def test_step_schedule_is_a_pure_function_of_the_step() -> None:
    config = OptimConfig(schedule="cosine", warmup=0.1)
    schedule, factor = StepSchedule(config, total_steps=50), step_schedule(config, 50)
    for step in range(50):
        assert schedule.factor(step) == factor(step)
        assert not schedule.done(step)
        schedule.observe(step + 1, seconds=10.0 ** (step % 7))
    assert schedule.done(50) and schedule.total_steps == 50
    schedule.load_state_dict(json.loads(json.dumps(schedule.state_dict())))


def test_watch_reports_a_jump_once_and_again_after_another() -> None:
    watch = StepTimeWatch()
    times = [1.0] * 100 + [4.0] * 100 + [30.0] * 50 + [1.0] * 100
    events = [event for step, seconds in enumerate(times) for event in watch.observe(step, seconds)]
    assert [event["step"] // 10 for event in events] == [10, 20]


def test_watch_is_deaf_to_noise_single_stalls_and_rare_slow_steps() -> None:
    rng, watch = random.Random(0), StepTimeWatch()
    for step in range(20_000):
        stall = 100.0 if step % 50 == 0 else 10.0 if rng.random() < 0.02 else 1.0
        assert not watch.observe(step, stall * math.exp(rng.gauss(0, 0.3)))


def test_pace_is_the_mean_of_healthy_noise_and_follows_a_change() -> None:
    rng, pace = random.Random(0), Pace(expected=None)
    for _ in range(64):
        seconds = math.exp(rng.gauss(0, 0.3))
        pace.add(seconds, interval=seconds, stall=1.0)
    assert pace.seconds(1000) == pytest.approx(math.exp(0.3**2 / 2), rel=0.1)
    pace.add(50.0, interval=50.0, stall=1.0)
    assert pace.seconds(1000) < 1.3
    for _ in range(3):
        pace.add(20.0, interval=20.0, stall=1.0)
    assert pace.seconds(1000) > 10
