"""What a ladder promises is what its law says, rungs before the knee promise nothing, and a forecast follows the curve."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steepest.errors import DataError
from steepest.optim import OptimConfig
from steepest.optim.schedules import step_schedule
from steepest.planning.climb import Finished
from steepest.planning.forecast import (
    METRIC,
    STILL_TO_FALL,
    Forecaster,
    falls_all_along,
    forecast,
    keep_score,
)
from steepest.planning.ledger import Ledger
from steepest.planning.menu import Menu
from steepest.planning.predict import Outlook, look_out, steadiness_of, steepening
from steepest.planning.rules import member
from steepest.planning.rungs import Rung
from steepest.runs import RunFolder
from steepest.scaling import ChinchillaLaw, Prediction, Verdict
from steepest.scaling.early import as_fresh, trust
from steepest.scaling.gate import Rung as JudgedRung
from steepest.scaling.recorded import value_of
from steepest.train.run import RunConfig
from steepest.train.session import Result

TRUE = ChinchillaLaw(1.2, 0.9, 1.3, 0.30, 0.28, 1e6, 4e6)
SHAPES = ((1, 128), (2, 128), (3, 128), (4, 128), (5, 128), (4, 192))
UNIT = 0.5  # bits per byte of a nat per token


def rung(
    n: int,
    tokens: int,
    *,
    depth: int = 1,
    text: int = 10**9,
    whole: float = 0.0,
    knee: float = 0.0,
    **more: Any,
) -> Finished:
    """A rung on the true law; ``whole``: the whole held-out text is so much harder; ``knee``: tokens of a plateau's end."""
    d = tokens * 2.0 ** np.arange(-4, 0.01, 0.25)
    losses = TRUE(*as_fresh(n, d, text))
    if knee:
        losses = losses + 2.0 / (1 + (d / knee) ** 2)
    curve = tuple((int(at), float(loss)) for at, loss in zip(d, losses, strict=True))
    part = {"loss": float(losses[-1]), "bits_per_byte": UNIT * float(losses[-1])}
    larger = {name: value * (1 + whole) for name, value in part.items()} if whole else {}
    return Finished(Rung(depth, 64, n, tokens, **more), tokens, text, 0.0, 1024, 0.01, part, larger, 9999,
                    1.0, 1e-5, curve)  # fmt: skip


def rungs(text: int = 10**9, **more: Any) -> list[Finished]:
    sizes = [(80_000, 320_000), (180_000, 720_000), (230_000, 900_000), (80_000, 160_000), (80_000, 640_000)]
    return [rung(n, tokens, text=text, **more) for n, tokens in sizes]


def outlook(found: list[Finished], **more: Any) -> Outlook:
    values = {
        "n": 900_000,
        "tokens": 4_000_000.0,
        "depth": 1,
        "multiplier": 1.0,
        "lr_multiplier": 1.0,
        **more,
    }
    return look_out(found, **values)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if rungs were long enough for the sum of power laws that they lie on here."""
    monkeypatch.setattr(
        "steepest.planning.predict.trust", lambda tokens, steadiness: np.zeros(np.shape(tokens))
    )


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("text", [10**9, 700_000])
def test_the_promise_is_the_true_loss_in_bits_per_byte(text: int) -> None:
    told = outlook(rungs(text))
    true = UNIT * float(TRUE(*as_fresh(900_000, 4e6, text)))
    found = told.predict(900_000, 4e6, text)
    assert found.median == pytest.approx(true, rel=0.03)
    assert found.low95 < found.low80 < true < found.high80 < found.high95


def test_small_rungs_of_a_large_run_on_a_short_text_count() -> None:
    # As designed for `python-docs`: thirteen parameters a token of text, which the smallest rung reads four times.
    found = [rung(n, tokens, text=204_279) for n, tokens in
             ((82_944, 370_688), (82_944, 741_376), (268_288, 370_688), (268_288, 524_288))]  # fmt: skip
    assert len(outlook(found, n=2_752_512, tokens=1_429_953.0).rungs) == 4
    assert len(outlook(found, n=55_050_240, tokens=1_429_953.0).rungs) == 0  # far from any of them


def test_what_the_whole_text_is_harder_than_its_part_carries_over() -> None:
    plain = outlook(rungs()).predict(900_000, 4e6, 1e9).median
    mixed = [*rungs(), rung(230_000, 1_000_000, whole=0.1)]
    assert outlook(mixed).predict(900_000, 4e6, 1e9).median == pytest.approx(1.1 * plain, rel=0.01)


def test_a_multiplier_widens_and_uncertain_tokens_do() -> None:
    narrow, wide = (outlook(rungs(), multiplier=k).predict(900_000, 4e6, 1e9) for k in (1.0, 2.0))
    assert wide.median == pytest.approx(narrow.median, rel=1e-3)
    assert math.log(wide.high80 / wide.low80) > 1.5 * math.log(narrow.high80 / narrow.low80)


def test_a_law_carried_far_from_short_rungs_is_less_sure() -> None:
    near, far = (outlook(rungs()).predict(900_000, tokens, 1e9) for tokens in (2e6, 2e7))
    assert math.log(far.high80 / far.low80) > 1.5 * math.log(near.high80 / near.low80)


@pytest.mark.parametrize(("times", "early"), [(1, 1.0), (5, 0.559), (30, 0.0)])
def test_short_runs_follow_the_early_law_and_long_ones_the_sum_of_powers(times: int, early: float) -> None:
    sizes = [(80_000, 320_000), (180_000, 720_000), (230_000, 900_000), (80_000, 160_000), (80_000, 640_000)]
    told = outlook([rung(n, times * tokens) for n, tokens in sizes], tokens=times * 4e6)
    told = replace(told, steadiness=1.0)
    assert told.law is not None and told.early is not None
    at = 900_000, times * 4e6, 1e9
    late, soon = (float(np.median(law.sample(*at))) * UNIT for law in (told.law, told.early))
    assert soon < 0.96 * late  # they differ, or this would test nothing
    found = told.predict(*at).median
    assert min(soon, late) - 1e-9 <= found <= max(soon, late) + 1e-9
    assert told.expected(*at) * UNIT == pytest.approx(
        early * told.early.expected(*at) * UNIT + (1 - early) * told.law.expected(*at) * UNIT, rel=1e-2
    )
    assert {1.0: found == pytest.approx(soon), 0.0: found == pytest.approx(late)}.get(early, True)


@pytest.mark.parametrize(("slope", "trusted"), [(0.1, 1.0), (0.075, 1.0), (0.04, 0.0)])
def test_a_loss_that_slows_by_less_than_luck_is_still_the_early_laws(slope: float, trusted: float) -> None:
    """Two runs an octave apart whose losses are each off by half a percent tell their slope to within 0.0144."""
    judged = (
        JudgedRung(1e5, 5e5, slope, 0.1, True, ""),
        JudgedRung(2e5, 5e5, 0.02, 0.1, True, ""),  # alone: it has left its knee behind
        JudgedRung(3e5, 5e5, math.nan, math.nan, True, ""),
        JudgedRung(3e5, 2e5, 0.2, 0.1, False, "before its knee"),
    )
    steady = steadiness_of(Verdict(judged, True, ""))
    assert steady == pytest.approx(slope / 0.1 + 0.144, abs=1e-3)
    assert trust(5e6, steady) == trusted


def test_a_loss_that_nears_its_floor_is_not_the_early_laws() -> None:
    def flattening(one: Finished) -> Finished:
        floor = 2.9  # of losses from 4.5 down
        curve = tuple((d, floor + 2.0 * (d / 1e5) ** -0.9) for d, _ in one.curve)
        loss = curve[-1][1]
        return replace(one, curve=curve, part={"loss": loss, "bits_per_byte": UNIT * loss})

    told = outlook([flattening(one) for one in rungs()])
    assert told.law is not None and trust(4e6, told.steadiness) == 0
    assert told.predict(900_000, 4e6, 1e9).median == pytest.approx(
        UNIT * told.law.predict(900_000, 4e6).median
    )


def test_a_ladder_that_its_own_top_surprises_doubts_itself() -> None:
    smooth = rungs()
    surprised = [*smooth, rung(230_000, 1_000_000)]
    part = {name: 1.15 * value for name, value in surprised[-1].part.items()}
    surprised[-1] = replace(surprised[-1], part=part)
    calm = [*smooth, rung(230_000, 1_000_000)]
    assert outlook(calm).doubt == 1.0 and outlook(surprised).doubt > 1.5


def test_before_the_knee_nothing_is_promised() -> None:
    told = outlook(rungs(knee=900_000))
    assert told.law is None and "not predictable at this budget" in told.verdict.reason
    assert "still grows" in told.verdict.reason or "steepens" in told.verdict.reason


def test_a_rung_before_its_knee_is_told_by_another_of_its_size() -> None:
    before = [rung(80_000, tokens, knee=900_000) for tokens in (160_000, 320_000, 640_000)]
    assert steepening(before) == 640_000 and steepening([before[0]]) == 0
    assert steepening([rung(80_000, tokens, knee=10_000) for tokens in (320_000, 640_000)]) == 0
    assert steepening([rung(80_000, 320_000), rung(80_000, 640_000)]) == 0
    assert steepening([replace(one, curve=one.curve[-2:]) for one in before]) == 0


def test_a_cooldown_is_no_knee() -> None:
    def cooled(one: Finished) -> Finished:
        bent = tuple((d, loss * (1 - 0.1 * (d / one.tokens) ** 4)) for d, loss in one.curve)
        return replace(one, curve=bent)

    assert steepening([cooled(one) for one in rungs()]) == 0
    assert outlook([cooled(one) for one in rungs()]).law is not None


def test_rungs_that_cannot_be_compared_are_left_out() -> None:
    strange = [rung(80_000, 330_000, multiplier=2.0), rung(90_000, 350_000, depth=2),
               rung(2_000_000, 8_000_000), rung(80_000, 16_000_000)]  # fmt: skip
    assert len(outlook([*rungs(), *strange]).rungs) == len(rungs())
    assert outlook([]).law is None


def test_the_law_leaves_the_rules_size_only_for_a_gain() -> None:
    models = tuple(member({"vocab_size": 1024, "context": 64}, shape) for shape in SHAPES)
    found = outlook(rungs())
    assert found.law is not None
    flat = Menu(models, tuple(3.6e12 / Menu(models, (1.0,), 1).sizes[i] for i in range(len(models))), 10**9)
    assert abs(flat.best(found) - flat.rule) <= 1
    # Were the larger ones as fast as the small ones, the largest near the rule's would win.
    free = Menu(models, (4e6,) * len(models), 10**9)
    assert free.sizes[free.best(found)] > free.sizes[free.rule]


def test_the_record_says_what_other_budgets_reach() -> None:
    models = tuple(member({"vocab_size": 1024, "context": 64}, shape) for shape in SHAPES)
    menu = Menu(models, tuple(3.6e12 / size for size in Menu(models, (1.0,), 1).sizes), 10**9)
    found = outlook(rungs())
    index = menu.best(found)
    record = json.loads(json.dumps(found.record(menu, index, memory=menu)))
    promised, others = record["prediction"], record["with"]
    assert promised["low95"] < promised["low"] < promised["value"] < promised["high"] < promised["high95"]
    assert others["10x machine"]["value"] < others["2x time"]["value"] < promised["value"]
    assert others["2x memory"] == {key: promised[key] for key in others["2x memory"]}


@pytest.mark.parametrize("steadiness", [1.0, 0.5])
def test_the_law_in_the_record_draws_the_line_that_the_promise_lies_on(steadiness: float) -> None:
    models = tuple(member({"vocab_size": 1024, "context": 64}, shape) for shape in SHAPES)
    menu = Menu(models, (4e6,) * len(models), 10**9)
    found = replace(outlook(rungs()), steadiness=steadiness)
    law = json.loads(json.dumps(found.record(menu, 2, memory=menu)))["law"]
    assert law["form"] == ("early" if steadiness == 1.0 else "powers") and law["unit"] == "bits per byte"
    for n, tokens in ((8e5, 3e6), (menu.sizes[2], 4e6), (1e5, 3e5)):
        assert value_of(law, n, tokens) == pytest.approx(
            UNIT * float(found.expected(n, tokens, 1e9)), rel=0.015
        )
    if steadiness < 1:
        drawn = law["E"] + law["A"] * 8e5 ** -law["alpha"] + law["B"] * 3e6 ** -law["beta"]
        assert drawn == pytest.approx(UNIT * float(TRUE(8e5, 3e6)), rel=0.05)
    assert value_of({**law, "c" if steadiness == 1.0 else "E": None}, 1e5, 1e5) is None


STEPS = 1000
FACTORS = [step_schedule(OptimConfig(warmup=0.02, cooldown=0.9), STEPS)(step) for step in range(STEPS)]


@pytest.fixture
def by_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecast from the run's own curve, as under schedules that do not fall all along."""
    monkeypatch.setattr("steepest.planning.forecast.falls_all_along", lambda factors: False)


def lines(until: int, gap: float = 0.02, drift: float = 0.0) -> list[dict[str, Any]]:
    """Metric lines of a run on a curve with noise; the held-out loss lies ``gap + drift * share`` above, as a logarithm."""
    dice = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for step in range(1, until + 1):
        loss = curve_at(step)
        found.append(
            {"step": step, "lr": 0.01 * FACTORS[step - 1], "loss": loss * (1 + 0.02 * dice.normal())}
        )
        if step % 100 == 0:
            held_out = loss * math.exp(gap + drift * step / STEPS)
            found.append({"step": step, "evaluation": {"loss": held_out, "bits_per_byte": UNIT * held_out}})
    return found


def curve_at(step: int) -> float:
    walked = sum(FACTORS[:step])
    return 2.0 + 1.5 * (walked / 100) ** -0.4 - 0.15 * (1 - FACTORS[step - 1]) * (step > 20)


@pytest.mark.parametrize(("share", "within"), [(0.25, 0.03), (0.5, 0.02), (0.75, 0.008)])
@pytest.mark.usefixtures("by_curve")
def test_a_forecast_comes_nearer_as_the_run_goes_on(share: float, within: float) -> None:
    true = UNIT * curve_at(STEPS) * math.exp(0.02)
    told = forecast(lines(int(share * STEPS)), FACTORS, None, 0.5)
    assert told["value"] == pytest.approx(true, rel=within) and told["low"] < told["value"] < told["high"]


@pytest.mark.parametrize("until", [250, 500, 750])
def test_where_the_rate_falls_all_along_the_last_evaluations_say_the_end(until: int) -> None:
    shares, falls, _ = zip(*STILL_TO_FALL, strict=True)
    found = [
        {
            "step": step,
            "evaluation": {METRIC: 1.6 * math.exp(-np.interp(step / STEPS, shares, falls)), "loss": 3.0},
        }
        for step in range(50, until + 1, 50)
    ]
    told = forecast(found, FACTORS, None, 0.5)
    assert told["by"] == "likeness" and told["value"] == pytest.approx(1.6, rel=1e-6)
    half = math.log(told["high"] / told["low"]) / 2
    assert half == pytest.approx(1.2816 * {250: 0.05, 500: 0.02, 750: 0.009}[until], rel=1e-6)
    assert falls_all_along(FACTORS)
    assert falls_all_along(
        [step_schedule(OptimConfig(schedule="linear"), STEPS)(step) for step in range(STEPS)]
    )
    assert not falls_all_along(
        [step_schedule(OptimConfig(schedule="cosine"), STEPS)(step) for step in range(STEPS)]
    )


@pytest.mark.usefixtures("by_curve")
def test_a_promise_is_one_more_observation() -> None:
    alone = forecast(lines(300), FACTORS, None, 0.5)
    sure = {"value": 1.1 * alone["value"], "low": 1.099 * alone["value"], "high": 1.101 * alone["value"]}
    unsure = {"value": 1.1 * alone["value"], "low": 0.5 * alone["value"], "high": 2.4 * alone["value"]}
    assert forecast(lines(300), FACTORS, sure, 0.5)["value"] == pytest.approx(sure["value"], rel=0.005)
    assert forecast(lines(300), FACTORS, unsure, 0.5)["value"] == pytest.approx(alone["value"], rel=0.005)


def test_text_read_again_brings_less_and_the_end_is_less_sure() -> None:
    fresh, again = (forecast(lines(250), FACTORS, None, epochs, 4.0 / epochs) for epochs in (1.0, 7.0))
    assert fresh == forecast(lines(250), FACTORS, None, 1.0)
    assert again["value"] > 1.03 * fresh["value"]
    assert again["high"] / again["low"] > fresh["high"] / fresh["low"]
    assert again["low"] < fresh["value"] < again["value"]
    # Before its text is read out a run knows nothing of it.
    assert forecast(lines(250), FACTORS, None, 0.5, 100.0) == fresh


@pytest.mark.usefixtures("by_curve")
def test_a_growing_gap_is_carried_on_where_text_repeats() -> None:
    fresh, repeated = (
        forecast(lines(500, drift=0.2), FACTORS, None, epochs)["value"] for epochs in (1.0, 5.0)
    )
    assert repeated > 1.02 * fresh


@pytest.mark.usefixtures("by_curve")
def test_an_end_that_is_wide_open_is_not_told() -> None:
    wavering = [
        line if "loss" in line else line | {"evaluation": {**line["evaluation"], "loss": line["evaluation"]["loss"] * factor}}
        for line, factor in zip(lines(300), [1.0, 2.0] * 300, strict=False)
    ]  # fmt: skip
    with pytest.raises(DataError, match="wide open"):
        forecast(wavering, FACTORS, None, 0.5)


def test_without_a_held_out_loss_there_is_no_forecast() -> None:
    with pytest.raises(DataError, match="held-out"):
        forecast([line for line in lines(300) if "loss" in line], FACTORS, None, 1.0)


@pytest.mark.usefixtures("by_curve")
def test_a_curve_that_leaves_everything_open_waits_for_more_and_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    for record in lines(300):
        folder.append_metrics(record)

    class Open:
        peak = 0.01

        def __call__(self, rates: Any) -> Any:
            return np.ones(len(rates))

        def extrapolate(self, rates: Any) -> Any:
            return Prediction(2.0, -1.0, 5.0, -2.0, 6.0, 4.0)

    with monkeypatch.context() as patch:
        patch.setattr("steepest.planning.forecast.fit_curve", lambda *histories: Open())
        hook = Forecaster(RunConfig(), folder, {"epochs": 1.0}, lambda name, fields: None)
        hook(_State(300), {})  # type: ignore[arg-type]
        assert folder.read_events() == []
    hook(_State(305), {})  # type: ignore[arg-type]
    assert folder.read_events() == []  # not at every step
    hook(_State(330), {})  # type: ignore[arg-type]
    assert [event["mark"] for event in folder.read_events()] == [0.25]


class _State:
    """As much of a run's state as the hook looks at."""

    class schedule:
        total_steps = STEPS
        factor = staticmethod(lambda step: FACTORS[step])

    def __init__(self, step: int) -> None:
        self.step, self.seconds = step, 100.0 * step / STEPS


@pytest.mark.usefixtures("by_curve")
def test_each_mark_is_forecast_once_also_when_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    config = RunConfig().replace(train=RunConfig().train.replace(time=100.0))
    heard: list[float] = []

    def hear(name: str, fields: dict[str, Any]) -> None:
        heard.append(fields["mark"])

    hook = Forecaster(config, folder, {"epochs": 1.0}, hear)
    for record in lines(520):
        folder.append_metrics(record)
    for step in range(200, 520):
        hook(_State(step), {})  # type: ignore[arg-type]
    again = Forecaster(config, folder, {"epochs": 1.0}, hear)
    for step in range(480, 600):
        again(_State(step), {})  # type: ignore[arg-type]
    assert heard == [0.25, 0.5]
    assert [event["mark"] for event in folder.read_events()] == heard


def test_a_score_says_inside_or_outside_and_goes_to_the_ledger(tmp_path: Path) -> None:
    folder, ledger = RunFolder(tmp_path / "run"), Ledger(tmp_path / "cache")
    folder.path.mkdir()
    promised = {
        "metric": "bits_per_byte", "value": 1.5, "low": 1.4, "high": 1.6, "low95": 1.3, "high95": 1.7,
        "multiplier": 1.0, "tokens": 4_000_000, "matrix_parameters": 900_000,
    }  # fmt: skip
    law = {"E": 0.5, "A": 10.0, "alpha": 0.3, "B": 30.0, "beta": 0.3}
    folder.write_json(folder.plan, {"prediction": promised, "law": law, "tokens": 4_000_000, "epochs": 0.5})
    folder.append_event("forecast", mark=0.5, step=5, value=1.6, low=1.5, high=1.7)
    result = Result(True, 10, 2_000_000, 60.0, 10, {"bits_per_byte": 1.65, "loss": 3.3}, 999, {})
    score = keep_score(folder, RunConfig(), result, ledger)
    assert score is not None and json.loads(folder.score.read_text()) == score == ledger.scores()[0]
    assert not score["inside80"] and score["inside95"] and score["error"] == pytest.approx(0.1)
    assert score["forecasts"][0]["inside80"]

    def at(tokens: float) -> float:
        return 0.5 + 10 * 900_000**-0.3 + 30 * tokens**-0.3

    assert score["predicted_for_these_tokens"] == pytest.approx(1.5 * at(2e6) / at(4e6))


def test_a_run_without_a_promise_is_scored_by_its_forecasts_alone(tmp_path: Path) -> None:
    folder, ledger = RunFolder(tmp_path / "run"), Ledger(tmp_path / "cache")
    folder.path.mkdir()
    folder.write_json(folder.plan, {"unpredictable": "too short"})
    result = Result(True, 10, 2_000_000, 60.0, 10, {"bits_per_byte": 1.65}, 999, {})
    assert keep_score(folder, RunConfig(), result, ledger) is None and not folder.score.exists()
    folder.append_event("forecast", mark=0.25, step=5, value=1.6, low=1.5, high=1.7)
    score = keep_score(folder, RunConfig(), result, ledger)
    assert score is not None and "predicted" not in score and ledger.scores() == []
