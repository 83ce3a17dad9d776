"""Rungs through the real parts: a branch leaves no trace on its trunk, and no finished rung is lost or run twice."""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steepest.config import build
from steepest.data import Corpus
from steepest.errors import ConfigError, TrainingError
from steepest.model.size import n_matrix_parameters
from steepest.optim import OptimConfig
from steepest.optim.schedules import step_schedule
from steepest.planning.choose import Circumstances, choose
from steepest.planning.climb import Branch, Finished, climb, rung_config, thinned
from steepest.planning.ladder import Ladder
from steepest.planning.measure import Pace
from steepest.planning.menu import Menu
from steepest.planning.promise import promise
from steepest.planning.rules import member
from steepest.planning.rungs import Rung
from steepest.train.kinds import Kind, kind_of
from steepest.train.run import RunConfig

MACHINE = {"device": "cpu", "processor": "a test's", "cores": 1}
FIXED = {"vocab_size": 257, "context": 32}
RUNGS = [Rung(1, 32, 20_000, tokens) for tokens in (2048, 4096, 6144)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunConfig, Corpus, Kind, Path]]:
    from conftest import make_text

    folder = tmp_path_factory.mktemp("ladder")
    text = folder / "text.txt"
    text.write_text(make_text(1200))
    given = build(RunConfig, {
        "data": {"sources": [str(text)]}, "tokenizer": {"kind": "bytes"}, "batches": {"batch_tokens": 128},
        "optim": {"warmup": 0.0, "cooldown": 0.5}, "train": {"device": "cpu", "threads": 1, "dtype": "float32"},
    })  # fmt: skip
    kind, given, corpus = kind_of(given).prepare(given, folder / "cache", lambda name, fields: None)
    assert isinstance(corpus, Corpus)
    yield given, corpus, kind, folder


def run(parts: tuple[RunConfig, Corpus, Kind, Path], rungs: list[Rung], **more: Any) -> list[Finished]:
    given, corpus, kind, _ = parts
    return list(climb(rungs, given, FIXED, corpus, kind, **more))


def test_branches_of_one_trunk_reach_what_runs_of_their_own_reach(parts: Any) -> None:
    together = run(parts, RUNGS)
    alone = list(itertools.chain(*(run(parts, [rung]) for rung in RUNGS)))
    for one, other in zip(together, alone, strict=True):
        assert one.part == other.part and one.curve == other.curve and one.tokens == other.tokens
    assert [one.tokens for one in together] == [2048, 4096, 6144]
    losses = [one.loss for one in together]
    assert losses == sorted(losses, reverse=True) and losses[0] < np.log(257)


def test_dropout_is_drawn_alike_on_a_trunk_with_branches(parts: Any) -> None:
    given, corpus, kind, _ = parts
    fixed = {**FIXED, "dropout": 0.2}
    both = list(climb(RUNGS[1:], given, fixed, corpus, kind))
    last = list(climb(RUNGS[2:], given, fixed, corpus, kind))
    assert both[1].part == last[0].part


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine", "constant"])
def test_a_branch_has_the_schedule_of_a_run_of_its_length(schedule: str) -> None:
    config = OptimConfig(schedule=schedule, warmup=0.1, cooldown=0.6)  # type: ignore[arg-type]
    branch, run = Branch(config, total=50, warmup=5), step_schedule(config, 50)
    assert [branch.factor(step) for step in range(50)] == pytest.approx([run(step) for step in range(50)])


def test_the_largest_rung_is_evaluated_on_more(parts: Any) -> None:
    held_out = parts[1].held_out_tokens
    small, large = run(parts, RUNGS[:2], whole=held_out, top=RUNGS[1])
    assert small.whole == {} and large.whole_tokens == held_out and large.whole["loss"] == large.loss


def test_an_interrupted_ladder_goes_on_where_it_stopped(parts: Any, tmp_path: Path) -> None:
    given, corpus, kind, _ = parts
    whole = Ladder(given, FIXED, corpus, MACHINE, tmp_path / "whole")
    expected = list(whole.climb(RUNGS, kind))

    def stop(name: str, fields: dict[str, Any]) -> None:
        if fields["finished"].rung == RUNGS[1]:
            raise KeyboardInterrupt

    broken = Ladder(given, FIXED, corpus, MACHINE, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        list(broken.climb(RUNGS, kind, listen=stop))
    with broken.file.open("ab") as file:
        file.write(b'{"rung": {"depth"')  # as a killed process leaves it
    again = Ladder(given, FIXED, corpus, MACHINE, tmp_path / "broken")
    assert [one.rung for one in again.finished()] == RUNGS[:2]
    rest = list(again.climb(RUNGS, kind))
    assert [one.rung for one in rest] == RUNGS[2:]
    assert [one.part for one in again.finished()] == [one.part for one in expected]


def test_rungs_are_found_for_the_same_recipe_alone(parts: Any, tmp_path: Path) -> None:
    given, corpus, kind, _ = parts
    first = Ladder(given, FIXED, corpus, MACHINE, tmp_path)
    list(first.climb(RUNGS[:1], kind))
    assert len(Ladder(given, FIXED, corpus, MACHINE, tmp_path).finished()) == 1
    assert list(Ladder(given, FIXED, corpus, MACHINE, tmp_path).climb(RUNGS[:1], kind)) == []
    longer = given.replace(train=given.train.replace(time=600.0))
    assert Ladder(longer, FIXED, corpus, MACHINE, tmp_path).key == first.key  # another budget, the same rungs
    others = [
        Ladder(given.replace(optim=given.optim.replace(cooldown=0.9)), FIXED, corpus, MACHINE, tmp_path),
        Ladder(given, {**FIXED, "context": 64}, corpus, MACHINE, tmp_path),
        Ladder(given, FIXED, corpus, {**MACHINE, "cores": 2}, tmp_path),
        Ladder(given, FIXED, replace(corpus, train=corpus.validation), MACHINE, tmp_path),
    ]
    assert len({other.key for other in others} | {first.key}) == 5
    assert all(other.finished() == [] for other in others)


def test_no_rung_is_begun_that_the_seconds_left_cannot_pay(parts: Any, tmp_path: Path) -> None:
    given, corpus, kind, _ = parts
    rungs = [replace(rung, seed=seed) for seed, rung in enumerate(RUNGS)]
    ladder = Ladder(given, FIXED, corpus, MACHINE, tmp_path)
    ran = list(
        ladder.climb(rungs, kind, seconds=1000.0, cost=lambda rungs: 1e9 if rungs[0].seed == 1 else 1.0)
    )
    assert [one.rung.seed for one in ran] == [0, 2]


def test_trunks_side_by_side_reach_what_they_reach_in_turn(parts: Any, tmp_path: Path) -> None:
    given, corpus, kind, _ = parts
    fixed = {**FIXED, "dropout": 0.1}
    rungs = [replace(rung, seed=seed) for seed in range(3) for rung in RUNGS[:2]]
    in_turn, beside = (Ladder(given, fixed, corpus, MACHINE, tmp_path / name) for name in ("1", "2"))
    expected = {one.rung: one for one in in_turn.climb(rungs, kind)}
    heard: list[Rung] = []
    found = beside.climb(
        rungs, kind, workers=2, listen=lambda name, fields: heard.append(fields["finished"].rung)
    )
    assert [one.rung for one in found] == heard and set(heard) == set(rungs)
    assert {one.rung: (one.part, one.curve, one.tokens) for one in beside.finished()} == {
        rung: (one.part, one.curve, one.tokens) for rung, one in expected.items()
    }


def test_side_by_side_too_no_trunk_is_begun_that_the_seconds_left_cannot_pay(
    parts: Any, tmp_path: Path
) -> None:
    given, corpus, kind, _ = parts
    rungs = [replace(rung, seed=seed) for seed, rung in enumerate(RUNGS)]
    ladder = Ladder(given, FIXED, corpus, MACHINE, tmp_path)
    prices = {0: 1.0, 1: 500.0, 2: 1e9}
    ran = ladder.climb(rungs, kind, seconds=1000.0, cost=lambda rungs: prices[rungs[0].seed], workers=2)
    assert {one.rung.seed for one in ran} == {0, 1}


def test_a_curve_is_thinned_to_means_that_cover_it() -> None:
    rows = [(tokens, 10.0 / tokens) for tokens in range(1, 257)]
    points = thinned(rows)
    assert points[-1][0] == 256 and 20 < len(points) < 40
    start = 0
    for tokens, loss in points:
        assert loss == pytest.approx(np.mean([10.0 / at for at in range(start + 1, tokens + 1)]))
        start = tokens


def test_a_finished_rung_survives_json(parts: Any) -> None:
    import json

    one = run(parts, RUNGS[:1])[0]
    assert Finished.of(json.loads(json.dumps(one.record()))) == one


def test_a_real_ladder_promises_what_a_larger_run_reaches_or_says_that_it_cannot(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, corpus, kind, _ = parts
    planning = sys.modules["steepest.planning.promise"]
    for name, value in (
        ("LEAST_RUNG_TOKENS", 12_288),
        ("LENGTHS", (1.0,)),
        ("LONGER", (2,)),
    ):
        monkeypatch.setattr(planning, name, value)
    monkeypatch.setattr(planning, "WIDTHS", (32, 64))
    models = [member(FIXED, shape) for shape in ((1, 96), (2, 96))]
    menu = Menu(tuple(models), (64_000.0, 64_000.0), unique=10**9)
    pace = Pace(dict.fromkeys(menu.sizes, 2e-05))
    heard: list[str] = []

    def climb_for(seconds: float) -> Any:
        return promise(given, FIXED, corpus, kind, menu, pace, tmp_path, seconds=seconds,
                       listen=lambda name, fields: heard.append(name))  # fmt: skip

    found = climb_for(1000.0)
    assert heard[0] == "ladder" and heard.count("rung") == found.record["ran"] >= 6
    assert found.outlook is not None and found.multiplier in {2 ** (k / 2) for k in range(-2, 3)}
    again = climb_for(1000.0)
    assert again.record["ran"] == 0 and again.record["points"] == found.record["points"]
    assert {point["n"] for point in found.record["points"] if point["passed"]} <= {
        point["n"] for point in found.record["points"]
    }
    if found.outlook.law is None:
        assert "not predictable at this budget" in found.reason
        return
    size = menu.sizes[0]
    target = Rung(1, 96, size, 64_000, multiplier=found.multiplier)
    reached = run(parts, [target], whole=corpus.held_out_tokens, top=target)[0].whole["bits_per_byte"]
    told = found.outlook.predict(size, 64_000, 1e9)
    assert told.low95 * 0.95 <= reached <= told.high95 * 1.05


def test_a_rung_that_diverges_costs_itself_alone(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    climbing = sys.modules["steepest.planning.climb"]
    real = climbing.run_loop

    def loop(state: Any, *, lr: float, **more: Any) -> bool:
        if lr > 1.5 * rung_config(parts[0], RUNGS[0], FIXED).optim.lr:
            raise TrainingError("ten steps in a row were skipped")
        return bool(real(state, lr=lr, **more))

    monkeypatch.setattr(climbing, "run_loop", loop)
    hot = replace(RUNGS[0], multiplier=2.0)
    assert [one.rung for one in run(parts, [hot])] == []
    given, corpus, kind, folder = parts
    ladder = Ladder(given, FIXED, corpus, MACHINE, folder / "diverging")
    assert [one.rung for one in ladder.climb([hot, RUNGS[1]], kind)] == [RUNGS[1]]


def test_a_run_that_goes_on_from_another_has_no_ladder(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, corpus, kind, folder = parts
    choosing = sys.modules["steepest.planning.choose"]
    monkeypatch.setattr(choosing, "promise", lambda *arguments, **named: pytest.fail("a ladder was climbed"))
    long = given.replace(train=given.train.replace(time=600.0, start=str(folder)))
    where = Circumstances(time.monotonic(), cache=folder / "cache")
    _, record = choosing.choose(long, corpus, kind, where, lambda name, fields: None)
    assert "goes on from another" in record["unpredictable"]


def choosing_until(parts: Any, monkeypatch: pytest.MonkeyPatch, **named: Any) -> dict[str, Any]:
    """What a ladder would be asked for in a choice."""
    given, corpus, kind, folder = parts
    choosing = sys.modules["steepest.planning.choose"]
    asked: dict[str, Any] = {}

    class Asked(Exception):
        """The ladder begins."""

    def began(given: Any, fixed: Any, examples: Any, kind: Any, menu: Menu, *rest: Any, **more: Any) -> None:
        asked.update(menu=menu, **more)
        raise Asked

    monkeypatch.setattr(choosing, "promise", began)
    ago = named.pop("ago", 0.0)
    timed = given.replace(train=given.train.replace(**named))
    where = Circumstances(time.monotonic() - ago, cache=folder / "cache")
    with pytest.raises(Asked):
        choose(timed, corpus, kind, where, lambda name, fields: None)
    return asked


def test_a_ladder_takes_no_more_than_a_share_of_what_reading_has_left(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 55 < choosing_until(parts, monkeypatch, time=600.0)["seconds"] <= 63
    assert choosing_until(parts, monkeypatch, time=600.0, ago=560.0)["seconds"] < 8


def test_a_ladder_stands_for_a_size_that_fits_the_memory(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, corpus, kind, folder = parts
    choosing = sys.modules["steepest.planning.choose"]
    deciding = sys.modules["steepest.planning.decide"]
    real, tried = deciding.settled_config, list[int]()

    def settled(given: RunConfig, model: Any, *more: Any) -> Any:
        tried.append(n_matrix_parameters(model))
        if tried[-1] > 700_000:
            raise ConfigError("nothing fits")
        return real(given.replace(train=given.train.replace(memory=None)), model, *more)

    monkeypatch.setattr(deciding, "settled_config", settled)
    monkeypatch.setattr("steepest.planning.menu.MOST_EPOCHS", 1e9, raising=False)
    whole = Menu.of(
        given.replace(train=given.train.replace(time=600.0)), FIXED, Pace({1000: 1e-9}), 600.0, 10**9
    )
    fit = sum(size <= 700_000 for size in whole.sizes)
    monkeypatch.setattr(choosing, "measure_pace", lambda *arguments: Pace({100_000: 3e-7}))
    monkeypatch.setattr(choosing, "own_pace", lambda given, model, device, batch, pace: pace)
    menu = choosing_until(parts, monkeypatch, time=600.0, memory=10**9)["menu"]
    assert menu.sizes == whole.sizes[:fit] and len(tried) < 8
    # Where nothing fits, no ladder is climbed to find that out.
    monkeypatch.setattr(
        deciding, "settled_config", lambda *more: (_ for _ in ()).throw(ConfigError("nothing fits"))
    )
    small = given.replace(train=given.train.replace(time=600.0, memory=10**6))
    where = Circumstances(time.monotonic(), cache=folder / "cache")
    with pytest.raises(ConfigError, match="nothing fits"):
        choose(small, corpus, kind, where, lambda name, fields: None)


def test_a_cache_that_somebody_edited_costs_its_odd_lines_alone(parts: Any, tmp_path: Path) -> None:
    given, corpus, kind, _ = parts
    ladder = Ladder(given, FIXED, corpus, MACHINE, tmp_path)
    whole = [one.rung for one in ladder.climb(RUNGS[:1], kind)]
    with ladder.file.open("a") as file:
        file.write('{"rung": {"depth": 1}}\n{}\n{"rung": 3, "curve": []}\n')
    assert [one.rung for one in ladder.finished()] == whole == RUNGS[:1]


def test_a_run_by_the_clock_ends_when_more_would_be_learnt_by_heart(parts: Any) -> None:
    given, corpus, kind, _ = parts
    heard: list[Any] = []
    timed = given.replace(
        model=build(RunConfig, {"model": {"depth": 1, "width": 32, "context": 32}}).model,
        train=given.train.replace(time=3600.0),
    )
    where = Circumstances(time.monotonic())
    config, record = choose(
        timed, corpus, kind, where, lambda name, fields: heard.append(fields.get("event"))
    )
    assert "less time is enough" in heard and record["epochs"] == pytest.approx(7.0, rel=0.01)
    assert config.train.most_steps == pytest.approx(7 * corpus.train_tokens / 128, abs=1)
    heard.clear()
    short = timed.replace(train=timed.train.replace(time=where.spent() + 6.0))
    slow = Circumstances(time.monotonic(), machine_factor=0.01)  # buys less than a pass
    config, _ = choose(short, corpus, kind, slow, lambda name, fields: heard.append(fields.get("event")))
    assert config.train.most_steps is None
    assert "less time is enough" not in heard
    own = timed.replace(train=timed.train.replace(most_steps=10**6, compile=False))
    assert choose(own, corpus, kind, where, lambda name, fields: None)[0].train.most_steps == 10**6


def test_rungs_are_not_made_shorter_for_another_layer(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, corpus, kind, _ = parts
    planning = sys.modules["steepest.planning.promise"]
    monkeypatch.setattr(planning, "LEAST_RUNG_TOKENS", 8192)
    monkeypatch.setattr(planning, "ENOUGH_TOKENS", 1.4 * 8192)
    monkeypatch.setattr(planning, "most_workers", lambda given: 1)

    def paced(given: Any, models: list[Any], pace: Pace, *, workers: int = 1) -> Pace:
        return Pace({n_matrix_parameters(model): 1e-4 * model.depth * model.width for model in models})

    monkeypatch.setattr(planning, "rung_pace", paced)
    menu = Menu((member(FIXED, (6, 192)),), (2e6,), unique=10**9)

    class Designed(Exception):
        """The first rungs are known."""

    def climbed(seconds: float, shallowest: float) -> tuple[int, int] | None:
        monkeypatch.setattr(planning, "SHALLOWEST", shallowest)
        found: list[Rung] = []

        def listen(name: str, fields: dict[str, Any]) -> None:
            found.extend(fields["rungs"])
            raise Designed

        try:
            promise(
                given, FIXED, corpus, kind, menu, Pace({1: 1.0}), tmp_path, seconds=seconds, listen=listen
            )
        except Designed:
            return found[0].depth, min(rung.tokens for rung in found)
        return None

    given_up = 0
    for seconds in np.geomspace(200, 4000, 24).tolist():
        whole, found = climbed(seconds, 1.0), climbed(seconds, 2 / 3)
        if whole is None or whole[1] >= planning.ENOUGH_TOKENS:
            assert whole is None or found == whole
        else:
            assert found is not None
            assert found == whole or (found[0] < 6 and found[1] >= planning.ENOUGH_TOKENS)
            given_up += found != whole
    assert given_up
