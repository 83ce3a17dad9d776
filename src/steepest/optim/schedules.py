r"""Learning-rate schedules: the factor on the peak rate, as a function of the step.

Steps count from 0. A run of ``total`` steps makes the steps 0 .. total - 1; a schedule that falls reaches its
end value at ``total``, so that no step is spent at a rate of zero. Warm-up over ``warmup`` steps is
:math:`(s + 1) / (\text{warmup} + 1)`: the first step already moves.

A run bounded by time does not know ``total`` in advance. Its schedule is a list of `Decision` records; between
two of them the factor is again a pure function of the step (see ``train/deadline.py``, which makes them).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from steepest.errors import ConfigError
from steepest.optim.config import OptimConfig

Shape = Literal["linear", "cosine"]


def constant(step: int, *, warmup: int = 0) -> float:
    """Warm-up, then 1.

    >>> [constant(step, warmup=3) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / (warmup + 1))


def linear(step: int, total: int, *, warmup: int = 0, final: float = 0.0) -> float:
    r"""Warm-up, then a straight line: :math:`f + (1 - f)\,(T - s)/(T - W)`.

    >>> [linear(step, 4) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return warmup_stable_decay(step, total, warmup=warmup, cooldown=total - warmup, final=final)


def cosine(step: int, total: int, *, warmup: int = 0, final: float = 0.0) -> float:
    r"""Warm-up, then half a cosine: :math:`f + (1 - f)\,\tfrac12\left(1 + \cos(\pi (s - W)/(T - W))\right)`.

    Source: Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983

    >>> [round(cosine(step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return constant(step, warmup=warmup)
    share = min(1.0, (step - warmup) / max(total - warmup, 1))
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


def warmup_stable_decay(
    step: int, total: int, *, warmup: int = 0, cooldown: int = 0, final: float = 0.0
) -> float:
    r"""Warm-up, then 1, then over the last ``cooldown`` steps a line: :math:`f + (1 - f)\,(T - s)/C`.

    Until the cooldown the factor does not depend on ``total``: the length of the run can be decided late.
    Source: Hägele et al., https://arxiv.org/abs/2405.18392

    >>> [warmup_stable_decay(step, 8, warmup=1, cooldown=4) for step in range(9)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < total - cooldown:
        return constant(step, warmup=warmup)
    share_left = max(0, total - step) / cooldown if cooldown else 1.0
    return final + (1 - final) * share_left


def step_schedule(config: OptimConfig, total: int) -> Callable[[int], float]:
    """The schedule that a configuration names, for a run of ``total`` steps.

    >>> factor = step_schedule(OptimConfig(schedule="linear", warmup=0), total=10)
    >>> factor(0), factor(5)
    (1.0, 0.5)
    """
    if total < 1:
        raise ConfigError(f"a run needs at least 1 step; got {total}")
    warmup = min(round(config.warmup * total), total - 1)
    cooldown = min(round(config.cooldown * total), total - warmup)
    final = config.final_lr
    match config.schedule:
        case "constant":
            return lambda step: constant(step, warmup=warmup)
        case "linear":
            return lambda step: linear(step, total, warmup=warmup, final=final)
        case "cosine":
            return lambda step: cosine(step, total, warmup=warmup, final=final)
        case "wsd":
            return lambda step: warmup_stable_decay(
                step, total, warmup=warmup, cooldown=cooldown, final=final
            )


def cooldown_share(config: OptimConfig) -> float:
    """Share of a run in which the rate falls: "linear" and "cosine" fall from the end of the warm-up.

    >>> cooldown_share(OptimConfig(schedule="cosine", warmup=0.02)), cooldown_share(OptimConfig(schedule="constant"))
    (0.98, 0.0)
    """
    return {"wsd": config.cooldown, "constant": 0.0}.get(config.schedule, 1 - config.warmup)


@dataclass(frozen=True)
class Decision:
    """From ``factor`` at ``step`` go to ``final`` at ``step + remaining``, then stay there.

    ``shape`` is "linear", or "cosine": the rest of the half cosine from 1 to ``final`` that passes through
    ``factor`` at ``step``. ``ends`` says whether the run ends at ``step + remaining``.
    """

    step: int
    factor: float
    remaining: int
    final: float = 1.0
    shape: Shape = "linear"
    ends: bool = False

    def at(self, step: int) -> float:
        """The factor at a step (not before ``self.step``).

        >>> Decision(step=10, factor=0.5, remaining=5, final=0.0).at(12)
        0.3
        """
        share = min(1.0, (step - self.step) / self.remaining) if self.remaining > 0 else 1.0
        if self.shape == "cosine" and self.final < 1:
            height = (self.factor - self.final) / (1 - self.final)
            phase = math.acos(min(1.0, max(-1.0, 2 * height - 1)))
            phase += (math.pi - phase) * share
            return self.final + (1 - self.final) * (1 + math.cos(phase)) / 2
        return self.factor * (1 - share) + self.final * share


def piecewise(step: int, decisions: Sequence[Decision]) -> float:
    """The factor at a step under a list of decisions in order of their steps: the last one taken by then rules.

    >>> decisions = [Decision(0, 0.25, 3), Decision(9, 1.0, 10, final=0.0, ends=True)]
    >>> [piecewise(step, decisions) for step in (0, 3, 9, 14, 19)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    position = bisect_right(decisions, step, key=lambda decision: decision.step)
    if position == 0:
        raise ConfigError(f"no decision covers step {step}: a list of decisions starts at step 0")
    return decisions[position - 1].at(step)
