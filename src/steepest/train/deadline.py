"""How long a run lasts and which learning rate each step has: by steps, or by time.

`StepSchedule` is a pure function of the step. `DeadlineController` has a number of seconds instead and cannot
know how many steps they buy. It keeps a list of decisions (see ``optim/schedules.py``); the factor is a pure
function of step and decisions, and only a decision looks at the clock:

    warm-up     a line from the first step, as long as its share of the time is expected to take
    stable      the full rate, until the share of the time before the cooldown has passed
    cooldown    a line to the end value over the steps that the time left is expected to buy

During the cooldown the end is projected after every step from the recent pace. When it lies off by more than the
tolerances below, a new decision bends the line: from the current factor to the same end value, over more or fewer
steps. So the run ends on time, annealed, whatever the machine does; and the decisions, replayed, give the same
factors without a clock.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from steepest.errors import ConfigError
from steepest.optim.config import OptimConfig
from steepest.optim.schedules import Decision, Shape, cooldown_share, piecewise, step_schedule
from steepest.train.pace import Event, Pace, StepTimeWatch

LATE = 0.01  # share of the budget by which the projected end may lie beyond it
EARLY = 0.02  # share of the budget that may be left unused
_SLACK = 0.05  # share of the time left by which both tolerances are wider
_STALL = 0.02  # share of the budget up to which one interruption counts as usual business, to come again
_WARMUP_GRACE = 0.05  # share of the budget that a warm-up may take from the cooldown
_GUESSED_WARMUP = 10  # steps, until some have been timed


class Schedule(Protocol):
    """What the loop needs to know about the length of a run: both kinds below offer it."""

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run, or ``None`` while that is open."""

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""

    def done(self, step: int) -> bool:
        """Whether the run is over when ``step`` steps have been made."""

    def observe(self, step: int, seconds: float) -> None:
        """Note that ``step`` steps have now been made and that the last one took ``seconds``."""

    def take_events(self) -> list[Event]:
        """What happened since the last call: dicts with the key "event"."""

    def state_dict(self) -> dict[str, Any]:
        """State as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class StepSchedule:
    """A run of a given number of steps; a pure function of the step.

    >>> schedule = StepSchedule(OptimConfig(schedule="linear", warmup=0), total_steps=4)
    >>> [schedule.factor(step) for step in range(4)], schedule.done(4)
    ([1.0, 0.75, 0.5, 0.25], True)
    """

    def __init__(self, config: OptimConfig, total_steps: int) -> None:
        self._factor = step_schedule(config, total_steps)
        self._total = total_steps
        self._watch = StepTimeWatch()
        self._events: list[Event] = []

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._total

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        return self._factor(step)

    def done(self, step: int) -> bool:
        """Whether the run is over when ``step`` steps have been made."""
        return step >= self._total

    def observe(self, step: int, seconds: float) -> None:
        """Watch the step time; nothing else depends on it."""
        self._events += self._watch.observe(step, seconds)

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the length, for the reader."""
        return {"kind": "steps", "total_steps": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore: the length comes from the configuration, which a rewind may change."""


class DeadlineController:
    """A run of a given number of seconds that ends on time with its learning rate annealed.

    Args:
        config: schedule, warm-up, cooldown and final rate; "linear" and "cosine" cool down all the way from the
            end of the warm-up, "constant" not at all.
        seconds: time for training steps, and all that happens between them, from now on.
        step_seconds: what one step is expected to take; left out, the first three are timed.
        most_steps: enough of them; if the time buys more, the run ends early.
        clock: a function that returns seconds.

    >>> now = 0.0
    >>> config = OptimConfig(warmup=0, cooldown=0.5)
    >>> run = DeadlineController(config, seconds=10, step_seconds=1, clock=lambda: now)
    >>> factors = []
    >>> while not run.done(len(factors)):
    ...     factors.append(run.factor(len(factors)))
    ...     now += 1.0
    ...     run.observe(len(factors), seconds=1.0)
    >>> factors
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.833..., 0.666..., 0.5, 0.333..., 0.166...]
    """

    def __init__(
        self,
        config: OptimConfig,
        *,
        seconds: float,
        step_seconds: float | None = None,
        most_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ConfigError(f"a time budget must be more than 0 seconds; got {seconds:g}")
        self.seconds = seconds
        self._most_steps = most_steps
        self._warmup = config.warmup
        self._cooldown = cooldown_share(config)
        self._final = None if config.schedule == "constant" else config.final_lr
        self._cosine = config.schedule == "cosine"
        self._clock = clock
        self._pace = Pace(step_seconds)
        self._watch = StepTimeWatch()
        self._events: list[Event] = []
        self._repeat_until = -1
        self._begin()

    @property
    def decisions(self) -> Sequence[Decision]:
        """All decisions so far, in order of their steps."""
        return tuple(self._decisions)

    @property
    def elapsed(self) -> float:
        """Seconds of the budget used."""
        return self._clock() - self._started

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run once the cooldown has begun (a later decision may still move it)."""
        last = self._decisions[-1]
        return last.step + last.remaining if last.ends else None

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        return piecewise(step, self._decisions)

    def done(self, step: int) -> bool:
        """Whether the run is over when ``step`` steps have been made."""
        return self.total_steps is not None and step >= self.total_steps

    def set_seconds_left(self, seconds: float) -> None:
        """Move the deadline to ``seconds`` from now; before the first step, the whole plan begins now."""
        seconds = max(seconds, 1e-9)
        if self._pace.count == 0:
            self.seconds = seconds
            self._begin()
        else:
            self.seconds = self.elapsed + seconds
        self._last = self._clock()  # what has passed since the last step was not a step's overhead

    def observe(self, step: int, seconds: float) -> None:
        """Note that ``step`` steps have now been made and the last one took ``seconds``; decide what is due."""
        now = self._clock()
        self._pace.add(seconds, interval=now - self._last, stall=_STALL * self.seconds)
        self._last = now
        self._events += self._watch.observe(step, seconds)
        if step - 1 <= self._repeat_until:
            return
        last = self._decisions[-1]
        pace = self._pace.seconds(self.seconds)
        left, whole = self._time(step, now - self._started, pace)
        warming = not last.ends and step <= last.step + last.remaining
        # A warm-up that takes a little longer may end first: the peak would be lost otherwise.
        cooldown = self._cooldown - (min(_WARMUP_GRACE, self._cooldown / 4) if warming else 0)
        if last.ends:
            self._plan_end(step, left, pace, "horizon moved")
        elif left - pace < cooldown * whole:
            self._plan_end(step, left, pace, "horizon fixed")
        elif warming:
            self._plan_warmup(step, left - (1 - self._warmup) * whole, pace)

    def take_events(self) -> list[Event]:
        """What happened since the last call: "warm-up fixed", "horizon fixed", "horizon moved", "step time jumped"."""
        events, self._events = self._events, []
        return events

    def state_dict(self) -> dict[str, Any]:
        """Decisions, time used and recent step times, as JSON."""
        return {
            "kind": "deadline",
            "seconds": self.seconds,
            "elapsed": self.elapsed,
            "decisions": [asdict(decision) for decision in self._decisions],
            "pace": self._pace.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], repeat: Sequence[Mapping[str, Any]] = ()) -> None:
        """Go on from a saved state: the time used by then counts, the time since does not.

        ``repeat`` holds decisions made after that state by a session that was lost (its events name them): they
        are applied again at their steps, and new ones are made only beyond the last of them.
        """
        if state.get("kind") != "deadline":
            raise ConfigError("the saved schedule counts steps, this run has a time budget: start a new run")
        decisions = [Decision(**fields) for fields in state["decisions"]]
        later = sorted((Decision(**fields) for fields in repeat), key=lambda decision: decision.step)
        later = [decision for decision in later if decision.step > decisions[-1].step]
        self._decisions = decisions + later
        self._repeat_until = later[-1].step if later else -1
        self.seconds = float(state["seconds"])
        self._last = self._clock()
        self._started = self._last - float(state["elapsed"])
        self._pace.load_state_dict(state["pace"])

    def _begin(self) -> None:
        """Start the clock, and plan the warm-up for the expected pace."""
        self._started = self._last = self._clock()
        expected = self._pace.expected
        steps = _GUESSED_WARMUP if expected is None else round(self._warmup * self.seconds / expected)
        steps = steps if self._warmup > 0 else 0
        self._decisions = [Decision(0, 1 / (steps + 1), steps)]

    def _time(self, step: int, elapsed: float, pace: float) -> tuple[float, float]:
        """Seconds left and in all: the budget's, or those that ``most_steps`` take, if these are fewer."""
        left = self.seconds - elapsed
        if self._most_steps is None or (enough := (self._most_steps - step) * pace) >= left:
            return left, self.seconds
        return enough, elapsed + enough

    def _plan_end(self, step: int, left: float, pace: float, event: str) -> None:
        """Decide how many steps are still to be made, if that is open or has gone wrong."""
        # Half a step over is as good as half a step under, while that stays within the tolerance.
        steps = max(0, math.floor(left / pace + min(0.5, LATE * self.seconds / pace)))
        if self._most_steps is not None:
            steps = min(steps, max(0, self._most_steps - step))
        planned = self.total_steps
        if planned is not None:
            over = (planned - step) * pace - left
            if planned - step == steps or not self._is_off(over, left):
                return
        self._decide(event, step, steps, ends=True)

    def _plan_warmup(self, step: int, left: float, pace: float) -> None:
        """Decide how many steps the rest of the warm-up has, if ``left`` seconds buy other than planned."""
        last = self._decisions[-1]
        planned = last.step + last.remaining - step
        steps = max(2, round(left / pace))
        guessed = self._pace.expected is None and step in (1, 3)  # twice, for the first step misleads
        if guessed or (step >= 3 and planned > 2 and self._is_off(planned * pace - left, left)):
            self._decide("warm-up fixed", step, steps, ends=False)

    def _is_off(self, over: float, left: float) -> bool:
        """Whether a projection that misses its time by ``over`` asks for a new decision.

        Far from the end a miss may be noise, and there is time to mend it: the tolerance grows with what is left.
        """
        slack = _SLACK * max(left, 0.0)
        return not -EARLY * self.seconds - slack <= over <= LATE * self.seconds + slack

    def _decide(self, event: str, step: int, steps: int, *, ends: bool) -> None:
        """Bend the line at the last step made, so that it reaches its end ``steps`` steps after it."""
        factor = self.factor(step - 1)
        final = 1.0 if not ends else factor if self._final is None else self._final
        shape: Shape = "cosine" if ends and self._cosine else "linear"
        decision = Decision(step - 1, factor, steps + 1, final, shape, ends)
        self._decisions = [d for d in self._decisions if d.step < decision.step] + [decision]
        self._events.append(
            {
                "event": event,
                "step": step,
                "remaining": steps,
                "elapsed": round(self.elapsed, 3),
                "step_seconds": self._pace.seconds(self.seconds),
                "decision": asdict(decision),
            }
        )
