r"""While a run goes on its promise is renewed, and at its end it is kept or broken: forecasts and the score.

At a quarter, half and three quarters of the run the law of its own curve (``scaling/curve.py``) is fitted to the
training losses so far and extrapolated along the rest of the schedule. What is promised is the loss on held-out text,
so the ratio of the two, seen at the evaluations so far, is carried on; where text repeats the ratio grows, and its
trend is carried on half way. The plan's prediction counts as one more observation:

    ln L = (ln L_plan / s_plan^2 + ln L_curve / s_curve^2) / (1 / s_plan^2 + 1 / s_curve^2)

A run whose plan promised nothing is forecast from its curve alone.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from steepest.errors import DataError
from steepest.planning.ledger import Ledger
from steepest.planning.predict import Z80
from steepest.runs import RunFolder
from steepest.scaling import effective_tokens, fit_curve
from steepest.train.loop import Record
from steepest.train.run import Listener, RunConfig
from steepest.train.session import Result
from steepest.train.state import TrainState

MARKS = (0.25, 0.5, 0.75)  # shares of the run
RETRIES = 50  # in a run, where the losses so far are too few to go by
LEAST_SPREAD = 0.004  # of the ratio of held-out to training loss
WIDEST = 1.5  # high over low of the 80 % interval, beyond which a forecast would say nothing
METRIC = "bits_per_byte"


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
        budget = self.config.train.time
        share = state.seconds / budget if budget else state.step / total if total else 0.0
        if not self._marks or share < self._marks[0] or state.step < self._not_before:
            return
        total = total or round(state.step / max(share, 1e-9))
        factors = [state.schedule.factor(step) for step in range(total)]
        try:
            found = forecast(
                self.folder.read_metrics(), factors, self.plan.get("prediction"), self.plan.get("epochs", 1.0)
            )
        except (
            DataError,
            ValueError,
            np.linalg.LinAlgError,
        ):  # too early; and a forecast must never end a run
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
    promised: Mapping[str, Any] | None,
    epochs: float,
) -> dict[str, Any]:
    """Where a run will end, in bits per byte: median, ends of the 80 % interval, and the curve's own word.

    Args:
        lines: of ``metrics.jsonl`` so far.
        factors: share of the peak rate at every step of the whole run.
        promised: the plan's prediction.
        epochs: of the whole run.

    Raises:
        DataError: too few losses, or nothing held out, to extrapolate from; or an end too open to tell.
    """
    steps = [line for line in lines if line.get("loss") is not None and line.get("lr") is not None]
    seen = [
        line for line in lines if "evaluation" in line and line["step"] > 0 and METRIC in line["evaluation"]
    ]
    if not seen:
        raise DataError("no evaluation on held-out text yet; hold some out, or evaluate more often")
    law = fit_curve(steps)
    rates = law.peak * np.asarray(factors, np.float64)
    fitted = law(rates)
    told = law.extrapolate(rates)
    if not (0 < told.low80 < told.high80 < math.inf and told.median > 0):
        raise DataError("the losses so far leave open where the curve goes; train longer")
    at = np.array([min(line["step"], len(rates)) for line in seen])
    logs = np.log([line["evaluation"]["loss"] for line in seen]) - np.log(fitted[at - 1])
    gap, spread = _carried_on(at / len(rates), logs, trend=epochs > 1.5)
    unit = seen[-1]["evaluation"][METRIC] / seen[-1]["evaluation"]["loss"]
    curve = math.log(told.median * unit) + gap
    curve_spread = math.hypot(math.log(told.high80 / told.low80) / (2 * Z80), spread)
    value, deviation = curve, curve_spread
    if promised:
        prior = math.log(promised["value"])
        prior_spread = max(math.log(promised["high"] / promised["low"]) / (2 * Z80), 1e-4)
        weight = curve_spread**-2 / (curve_spread**-2 + prior_spread**-2)
        value = weight * curve + (1 - weight) * prior
        deviation = (curve_spread**-2 + prior_spread**-2) ** -0.5
    if 2 * Z80 * deviation > math.log(WIDEST):
        raise DataError("the losses so far leave the end wide open; train longer")
    return {
        "metric": METRIC, "value": math.exp(value), "low": math.exp(value - Z80 * deviation),
        "high": math.exp(value + Z80 * deviation), "level": 0.8, "curve": math.exp(curve),
    }  # fmt: skip


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
    plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    reached = result.metrics.get(METRIC)
    events = folder.read_events()
    forecasts = [event for event in standing(events) if event["event"] == "forecast" and "value" in event]
    promised = plan.get("prediction")
    if reached is None or not (promised or forecasts):
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
    if promised:
        score |= {
            "predicted": promised["value"], "low80": promised["low"], "high80": promised["high"],
            "low95": promised["low95"], "high95": promised["high95"], "multiplier": promised["multiplier"],
            "tokens_planned": promised["tokens"], "error": reached / promised["value"] - 1,
            "inside80": promised["low"] <= reached <= promised["high"],
            "inside95": promised["low95"] <= reached <= promised["high95"],
            "predicted_for_these_tokens": _for_tokens(plan, result.tokens),
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


def _for_tokens(plan: Mapping[str, Any], tokens: int) -> float:
    """The promise, had it known how many tokens the time would buy: tells a wrong law from a wrong pace."""
    law, promised = plan["law"], plan["prediction"]

    def at(seen: float) -> float:
        fresh = float(effective_tokens(seen, max(plan["tokens"] / plan["epochs"], 1.0)))
        return float(
            law["E"]
            + law["A"] * promised["matrix_parameters"] ** -law["alpha"]
            + law["B"] * fresh ** -law["beta"]
        )

    return float(promised["value"]) * at(tokens) / at(promised["tokens"])
