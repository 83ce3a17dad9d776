"""What is said of a run in words: what was asked, what was reached, whether the prediction held, the figures beside."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.report.reading import RunRecord, Table, number, numbers, rows, table, text
from steepest.report.scale import plain
from steepest.units import duration, in_bytes, in_count

SPOKEN = {"loss": "nats", "bits_per_byte": "bits per byte"}
LOWER_IS_BETTER = ("loss", "bits_per_byte", "perplexity", "log_loss", "calibration", "error", "distance")


@dataclass(frozen=True)
class Prediction:
    """What was foretold before training: a value and an interval that holds the truth with probability ``level``."""

    metric: str
    value: float
    low: float
    high: float
    level: float

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


def spoken(metric: str) -> str:
    """A metric's name for people.

    >>> spoken("bits_per_byte"), spoken("balanced_accuracy")
    ('bits per byte', 'balanced accuracy')
    """
    return SPOKEN.get(metric, metric.replace("_", " "))


def figure(value: float) -> str:
    """A loss or metric with three decimals, where that is its size.

    >>> figure(1.5), figure(17.471), figure(0.00012)
    ('1.500', '17.471', '1.2e-4')
    """
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else plain(value)


def lower_is_better(metric: str) -> bool:
    """Whether less is better: losses and errors, by their names."""
    return any(part in metric for part in LOWER_IS_BETTER)


def target_metric(run: RunRecord) -> str:
    """The metric the run is judged by."""
    named = text(run.result.get("target_metric")) or text(table(run.config.get("objective")).get("metric"))
    if named:
        return named
    last = numbers(run.evaluations[-1].get("evaluation")) if run.evaluations else {}
    return (
        "bits_per_byte" if "bits_per_byte" in last else "loss" if "loss" in last else next(iter(last), "loss")
    )


def nats_to_target(run: RunRecord) -> tuple[str, float]:
    """The unit the loss is shown in, and the factor from nats per token to it (constant for one tokenizer)."""
    for record in reversed(run.evaluations):
        found = numbers(record.get("evaluation"))
        if found.get("loss") and found.get("bits_per_byte"):
            return "bits_per_byte", found["bits_per_byte"] / found["loss"]
    return "loss", 1.0


def reached(run: RunRecord) -> tuple[str, float] | None:
    """The target metric and its value: of the result, or of the best evaluation so far."""
    metric = target_metric(run)
    held_out = numbers(run.result.get("held_out"))
    if metric in held_out:
        return metric, held_out[metric]
    seen = [numbers(record.get("evaluation")).get(metric) for record in run.evaluations]
    values = [value for value in seen if value is not None]
    if not values:
        return None
    return metric, (min if lower_is_better(metric) else max)(values)


def prediction_of(run: RunRecord) -> Prediction | None:
    """The prediction a plan made."""
    return _prediction(table(run.plan.get("prediction")))


def forecasts(run: RunRecord) -> list[tuple[float, Prediction]]:
    """What was foretold while the run was under way, with the step at which."""
    told = [
        (number(event.get("step")), _prediction(event))
        for event in run.events
        if event.get("event") == "forecast"
    ]
    return [(step, found) for step, found in told if step is not None and found is not None]


def other_budgets(run: RunRecord) -> list[tuple[str, Prediction]]:
    """What the plan says other budgets would reach, by their names."""
    told = [(str(name), _prediction(table(one))) for name, one in table(run.plan.get("with")).items()]
    return [(name, found) for name, found in told if found is not None]


def _prediction(told: Table) -> Prediction | None:
    value, low, high = (number(told.get(key)) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    metric, level = text(told.get("metric")) or "bits_per_byte", number(told.get("level")) or 0.8
    return Prediction(metric, value, min(low, high), max(low, high), level)


def state_of(run: RunRecord) -> tuple[str, str]:
    """How the run stands, and the colour of it."""
    if run.finished:
        return "finished", "good"
    last = text(run.events[-1].get("event")) if run.events else ""
    if last == "interrupted":
        return "interrupted", "warn"
    return ("unfinished", "warn") if run.steps else ("not begun", "warn")


def headline(run: RunRecord) -> str:
    """The one line: what was reached, and in what time."""
    found = reached(run)
    seconds = number(run.last.get("seconds"))
    took = f" in {duration(seconds)}" if seconds else ""
    if found is None:
        return f"{run.name}: nothing measured on held-out text yet"
    metric, value = found
    figure = (
        f"{value:.1%}" if _is_share(metric, value) else f"{value:.3f}" if 0.1 <= value < 100 else plain(value)
    )
    shown = f"{figure} {spoken(metric)}"
    return f"{shown}{took}"


def asked(run: RunRecord) -> str:
    """What the run was asked to do."""
    train, data = table(run.config.get("train")), table(run.config.get("data"))
    budget = next((f"{said(value)}" for key, said in _BUDGETS if (value := number(train.get(key)))), "")
    sources = [
        Path(source).name if "/" in source else source for source in map(str, rows(data.get("sources")))
    ]
    memory = number(train.get("memory"))
    parts = [f"{budget} of training" if budget else "", f"on {', '.join(sources[:3])}" if sources else ""]
    parts += [f"within {in_bytes(memory)}"] if memory else []
    words = " ".join(part for part in parts if part)
    return f"Asked: {words}." if words else ""


def outcome(run: RunRecord) -> tuple[str, str] | None:
    """Whether the prediction held, and the colour of it."""
    prediction, found = prediction_of(run), reached(run)
    if prediction is None or found is None or prediction.metric != found[0]:
        return None
    interval = f"{figure(prediction.low)} to {figure(prediction.high)}"
    if not run.finished:
        return f"predicted {figure(prediction.value)} ({prediction.level:.0%} interval {interval})", "plain"
    if prediction.holds(found[1]):
        return f"inside the predicted interval ({interval})", "good"
    better = (found[1] < prediction.low) == lower_is_better(found[0])
    return (
        f"{'better' if better else 'worse'} than the predicted interval ({interval})",
        "good" if better else "bad",
    )


def key_figures(run: RunRecord) -> list[tuple[str, str, str]]:
    """Label, figure, and a few words beside, of what one asks first."""
    model, plan, last = table(run.config.get("model")), run.plan, run.last
    found: list[tuple[str, str, str]] = []
    prediction = prediction_of(run)
    if prediction is not None:
        found.append(
            (
                "predicted",
                figure(prediction.value),
                f"{prediction.level:.0%}: {figure(prediction.low)} to {figure(prediction.high)}",
            )
        )
    seconds, budget = number(last.get("seconds")), number(table(run.config.get("train")).get("time"))
    if seconds:
        found.append(("time", duration(seconds), f"of {duration(budget)}" if budget else "wall clock"))
    tokens, epochs = number(last.get("tokens")), number(plan.get("epochs"))
    if tokens:
        planned = number(plan.get("tokens"))
        read = f"{tokens / planned * epochs:.1f} epochs" if epochs and planned else ""
        found.append(("tokens", in_count(tokens), read))
    if parameters := number(plan.get("parameters")):
        found.append(("parameters", in_count(parameters), _shape(model)))
    if step := number(last.get("step")):
        batch = number(table(run.config.get("batches")).get("batch_tokens"))
        found.append(("steps", f"{step:,.0f}", f"of {in_count(batch)} tokens" if batch else ""))
    memory = table(run.result.get("memory"))
    if measured := number(memory.get("measured")):
        limit = number(memory.get("limit"))
        found.append(("memory", in_bytes(measured), f"of {in_bytes(limit)}" if limit else "at the peak"))
    best, step = number(run.result.get("best_step")), number(run.result.get("step"))
    if best is not None and step is not None and best != step:
        found.append(("weights kept", f"step {best:,.0f}", "the best on held-out text"))
    return found


def other_metrics(run: RunRecord) -> list[tuple[str, str]]:
    """Every held-out figure of the result (or of the last evaluation), and baselines beside it."""
    held_out = numbers(run.result.get("held_out")) or (
        numbers(run.evaluations[-1].get("evaluation")) if run.evaluations else {}
    )
    return [
        ("loss, in nats" if name == "loss" else spoken(name), f"{value:.4g}")
        for name, value in held_out.items()
    ]


def baselines(run: RunRecord) -> list[tuple[str, Table]]:
    """What simpler methods reach on the same data, by name."""
    told = run.result.get("baselines", run.result.get("baseline"))
    if isinstance(told, dict) and numbers(told) and not any(isinstance(one, dict) for one in told.values()):
        return [(text(told.get("name")) or "baseline", dict(numbers(told)))]
    named = (
        table(told).items()
        if isinstance(told, dict)
        else ((text(table(one).get("name")), one) for one in rows(told))
    )
    return [(str(name), dict(numbers(one))) for name, one in named if numbers(one)]


def _is_share(metric: str, value: float) -> bool:
    return "accuracy" in metric and 0 <= value <= 1 and math.isfinite(value)


def _shape(model: Table) -> str:
    depth, width = number(model.get("depth")), number(model.get("width"))
    return f"{depth:.0f} layer{'s' * (depth != 1)} x {width:.0f} wide" if depth and width else ""


def _epochs(value: float) -> str:
    return f"{value:g} epochs"


_BUDGETS: tuple[tuple[str, Any], ...] = (
    ("time", duration),
    ("steps", lambda value: f"{value:,.0f} steps"),
    ("tokens", lambda value: f"{in_count(value)} tokens"),
    ("epochs", _epochs),
)
