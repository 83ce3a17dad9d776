r"""While a run goes on its promise is renewed, and at its end it is kept or broken: forecasts and the score.

At a quarter, half and three quarters of the run its end is foretold. Where the rate falls all along, as it does by default,
runs are alike: the share of the held-out loss that is still to fall at a share of the steps was nearly the same in all
that were measured (``STILL_TO_FALL``; dev/LOG.md), so the last evaluations say where the run ends; where text repeats, what new
text would still bring is left out by half, and is in the interval as a whole. Under other schedules the
law of the run's own curve (``scaling/curve.py``) is fitted to its training losses and extrapolated along the rest of the
schedule, with the ratio of held-out to training loss seen so far; where text repeats its trend is carried on half way.
The plan's prediction counts as one more observation:

    ln L = (ln L_plan / s_plan^2 + ln L_curve / s_curve^2) / (1 / s_plan^2 + 1 / s_curve^2)

A run whose plan promised nothing is forecast from itself alone.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from steepest.errors import DataError, RunError
from steepest.planning.ledger import Ledger
from steepest.planning.plan_file import promised
from steepest.planning.predict import Z80
from steepest.runs import RunFolder
from steepest.scaling import fit_curve
from steepest.scaling.early import as_fresh
from steepest.scaling.recorded import value_of
from steepest.train.loop import Record
from steepest.train.run import Listener, RunConfig
from steepest.train.session import Result
from steepest.train.state import TrainState

MARKS = (0.25, 0.5, 0.75)  # shares of the run
RETRIES = 50  # in a run, where the losses so far are too few to go by
LEAST_SPREAD = 0.004  # of the ratio of held-out to training loss
WIDEST = 1.5  # high over low of the 80 % interval, beyond which a forecast would say nothing
METRIC = "bits_per_byte"
# Share of the steps; ln of the loss at the end over the held-out loss there, and its deviation from run to run.
STILL_TO_FALL = (
    (0.0, -0.4, 0.2), (0.25, -0.178, 0.05), (0.4, -0.115, 0.03), (0.5, -0.088, 0.02), (0.6, -0.06, 0.015), (0.75, -0.0315, 0.009),
    (0.85, -0.0165, 0.006), (0.95, -0.004, 0.004), (1.0, 0.0, 0.002),
)  # fmt: skip
BY_NEW_TEXT = 0.08  # of that, for each e-fold of tokens


class Forecaster:
    """A hook that forecasts where a run will end, at each of the marks once.

    Args:
        plan: the run's plan.json.
        folder: of the run; its metric lines are read, its events written.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, plan: Mapping[str, Any], listen: Listener
    ) -> None:
        self.config, self.folder, self.plan, self.listen = config, folder, plan, listen
        told = [event["mark"] for event in standing(folder.read_events()) if event["event"] == "forecast"]
        self._marks = [mark for mark in MARKS if mark not in told]
        self._not_before = 0

    def __call__(self, state: TrainState, record: Record) -> None:
        """After a step: forecast if a mark has been passed."""
        total = state.schedule.total_steps
        budget, most = self.config.train.time, self.config.train.most_steps
        share = state.seconds / budget if budget else state.step / total if total else 0.0
        share = max(share, state.step / most if most else 0.0)
        if not self._marks or share < self._marks[0] or state.step < self._not_before:
            return
        total = total or round(state.step / max(share, 1e-9))
        factors = [state.schedule.factor(step) for step in range(total)]
        try:
            found = forecast(
                self.folder.read_metrics(), factors, promised(self.plan), self.plan.get("epochs", 1.0),
                self.plan.get("matrix_parameters", 0) / max(self.plan.get("tokens", 0), 1),
            )  # fmt: skip
        # Too early, or a damaged plan; and a forecast must never end a run.
        except (DataError, ValueError, TypeError, LookupError, ArithmeticError, np.linalg.LinAlgError):
            self._not_before = state.step + max(1, total // RETRIES)
            return
        mark = max(one for one in self._marks if one <= share)
        self._marks = [one for one in self._marks if one > mark]
        event = {"step": state.step, "mark": mark, **found}
        self.folder.append_event("forecast", **event)
        self.listen("forecast", event)


def forecast(
    lines: Sequence[Mapping[str, Any]],
    factors: Sequence[float],
    told: Mapping[str, Any] | None,
    epochs: float,
    parameters: float = 0.0,
) -> dict[str, Any]:
    """Where a run will end, in bits per byte: median, ends of the 80 % interval, and the curve's own word.

    Args:
        lines: of ``metrics.jsonl`` so far.
        factors: share of the peak rate at every step of the whole run.
        told: the plan's prediction.
        epochs: of the whole run.
        parameters: for each of its tokens.

    Raises:
        DataError: too few losses, or nothing held out, to extrapolate from; or an end too open to tell.
    """
    seen = [
        line for line in lines if "evaluation" in line and line["step"] > 0 and METRIC in line["evaluation"]
    ]
    if not seen:
        raise DataError("no evaluation on held-out text yet; hold some out, or evaluate more often")
    like = falls_all_along(factors)
    if like:
        own, own_spread = _by_likeness(seen, len(factors), epochs, parameters * epochs)
    else:
        own, own_spread = _by_curve(lines, seen, factors, epochs)
    value, deviation = own, own_spread
    if told:
        prior = math.log(told["value"])
        prior_spread = max(math.log(told["high"] / told["low"]) / (2 * Z80), 1e-4)
        weight = own_spread**-2 / (own_spread**-2 + prior_spread**-2)
        value = weight * own + (1 - weight) * prior
        deviation = (own_spread**-2 + prior_spread**-2) ** -0.5
    if 2 * Z80 * deviation > math.log(WIDEST):
        raise DataError("the losses so far leave the end wide open; train longer")
    return {
        "metric": METRIC, "value": math.exp(value), "low": math.exp(value - Z80 * deviation),
        "high": math.exp(value + Z80 * deviation), "level": 0.8,
        "by": "likeness" if like else "curve", "alone": math.exp(own),
    }  # fmt: skip


def falls_all_along(factors: Sequence[float]) -> bool:
    """Whether the rate falls in about a straight line from soon after warm-up to the end.

    >>> falls_all_along([1 - k / 100 for k in range(100)]), falls_all_along([1.0] * 100)
    (True, False)
    """
    total = len(factors)
    ends = ((0.25, 0.7, 0.95), (0.5, 0.4, 0.65), (0.75, 0.2, 0.4))
    return all(low <= factors[int(share * total)] <= high for share, low, high in ends)


def _by_likeness(
    seen: Sequence[Mapping[str, Any]], total: int, epochs: float, crowd: float
) -> tuple[float, float]:
    """ln of the loss at the end and its deviation, from the last evaluations and what runs still gain from there."""
    shares, falls, spreads = (list(column) for column in zip(*STILL_TO_FALL, strict=True))
    last = seen[-3:]
    at = np.array([min(line["step"] / total, 1.0) for line in last])
    lost = 0.5 * np.array([_lost_by_repeats(share, epochs, crowd) for share in at.tolist()])
    ends = np.log([line["evaluation"][METRIC] for line in last]) + np.interp(at, shares, falls) + lost
    deviations = np.hypot(np.interp(at, shares, spreads), lost)
    apart = float(np.std(ends)) if len(last) > 1 else 0.0
    value = float(np.average(ends, weights=deviations**-2.0))
    return value, math.hypot(float(deviations[-1]), apart)


def _lost_by_repeats(share: float, epochs: float, crowd: float) -> float:
    """What ln of the loss would still fall by new text from a share of the run on, and does not by text read again.

    Args:
        epochs: of the whole run.
        crowd: parameters a different token.

    >>> _lost_by_repeats(0.25, 1.0, 4.0), round(_lost_by_repeats(0.25, 7.0, 4.0), 3)
    (0.0, 0.096)
    """
    worth = [float(as_fresh(max(crowd, 0.01), part * epochs, 1.0)[1]) for part in (share, 1.0)]
    return max(0.0, BY_NEW_TEXT * (-math.log(share) - math.log(worth[1] / worth[0])))


def _by_curve(
    lines: Sequence[Mapping[str, Any]],
    seen: Sequence[Mapping[str, Any]],
    factors: Sequence[float],
    epochs: float,
) -> tuple[float, float]:
    """The same from the law of the run's own training losses, and the ratio of held-out to training loss."""
    law = fit_curve([line for line in lines if line.get("loss") is not None and line.get("lr") is not None])
    rates = law.peak * np.asarray(factors, np.float64)
    fitted = law(rates)
    told = law.extrapolate(rates)
    if not (0 < told.low80 < told.high80 < math.inf and told.median > 0):
        raise DataError("the losses so far leave open where the curve goes; train longer")
    at = np.array([min(line["step"], len(rates)) for line in seen])
    logs = np.log([line["evaluation"]["loss"] for line in seen]) - np.log(fitted[at - 1])
    gap, spread = _carried_on(at / len(rates), logs, trend=epochs > 1.5)
    unit = seen[-1]["evaluation"][METRIC] / seen[-1]["evaluation"]["loss"]
    value = math.log(told.median * unit) + gap
    return value, math.hypot(math.log(told.high80 / told.low80) / (2 * Z80), spread)


def _carried_on(
    shares: np.ndarray[Any, Any], logs: np.ndarray[Any, Any], *, trend: bool
) -> tuple[float, float]:
    """What ln(held-out / training loss) will be at the end, and how sure that is."""
    last = logs[-min(3, len(logs)) :]
    middle = float(np.mean(last))
    spread = max(LEAST_SPREAD, float(np.std(logs[-4:])) if len(logs) > 1 else 3 * LEAST_SPREAD)
    if not trend or len(logs) < 3:
        return middle, spread
    slope = float(np.polyfit(shares[-4:], logs[-4:], 1)[0])
    further = 0.5 * slope * float(1 - np.mean(shares[-len(last) :]))
    return middle + further, math.hypot(spread, further)


def keep_score(folder: RunFolder, config: RunConfig, result: Result, ledger: Ledger) -> dict[str, Any] | None:
    """Write ``score.json`` for a finished run, and a line of the ledger if a loss was promised."""
    try:
        plan = folder.read_plan()
    except RunError:
        return None  # damaged while the run trained, which has its result nevertheless
    reached = result.metrics.get(METRIC)
    events = folder.read_events()
    forecasts = [event for event in standing(events) if event["event"] == "forecast" and "value" in event]
    told = promised(plan)
    if reached is None or not (told or forecasts):
        return None
    score: dict[str, Any] = {
        "run": str(folder.path.absolute()), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "metric": METRIC,
        "data": config.data.sources, "time": config.train.time, "reached": reached, "seconds": round(result.seconds, 2),
        "tokens": result.tokens, "parameters": plan.get("matrix_parameters"),
        "forecasts": [
            {"mark": one["mark"], "value": one["value"], "error": reached / one["value"] - 1,
             "inside80": one["low"] <= reached <= one["high"]} for one in forecasts
        ],
    }  # fmt: skip
    if told:
        score |= {
            "predicted": told["value"], "low80": told["low"], "high80": told["high"],
            "low95": told["low95"], "high95": told["high95"], "multiplier": told["multiplier"],
            "tokens_planned": told["tokens"], "error": reached / told["value"] - 1,
            "inside80": told["low"] <= reached <= told["high"],
            "inside95": told["low95"] <= reached <= told["high95"],
            "predicted_for_these_tokens": _for_tokens(plan, told, result.tokens),
        }  # fmt: skip
        if not any(event["event"] == "rewound" and event.get("changes") for event in events):
            ledger.add(score)  # a run whose settings were changed on the way is not the one that was promised
    folder.write_json(folder.score, score)
    return score


def standing(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Events of the branch that a run is on: what a rewind went back before is history.

    >>> standing([{"event": "a", "step": 5}, {"event": "b", "step": 9}, {"event": "rewound", "to": 7}])
    [{'event': 'a', 'step': 5}]
    """
    kept: list[Mapping[str, Any]] = []
    for event in events:
        if event["event"] == "rewound":
            kept = [one for one in kept if one.get("step", 0) <= event["to"]]
        else:
            kept.append(event)
    return kept


def _for_tokens(plan: Mapping[str, Any], told: Mapping[str, Any], tokens: int) -> float:
    """The promise, had it known how many tokens the time would buy: tells a wrong law from a wrong pace."""

    def at(seen: float) -> float:
        unique = max(plan["tokens"] / plan["epochs"], 1.0)
        return value_of(plan.get("law") or {}, told["matrix_parameters"], seen, unique) or math.nan

    return float(told["value"]) * at(tokens) / at(told["tokens"])
