"""A causal run from the table to the answer: Simpson's paradox, the front door, deadline, resume, refusals."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steepest
from causal_worlds import KIDNEY, KIDNEY_GRAPH, World, kidney_csv
from steepest.checkpoint import list_checkpoints, load_checkpoint
from steepest.errors import ConfigError, DataError, QueryError
from steepest.graph import read_graph
from steepest.optim import OptimConfig
from steepest.train.deadline import DeadlineController

STEPS = 150


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kidney")
    (folder / "kidney.csv").write_text(kidney_csv())
    (folder / "kidney.graph").write_text(KIDNEY_GRAPH)
    return folder


def train(place: Path, name: str, **changes: Any) -> steepest.TrainedRun:
    objective = {"kind": "causal-graph", "graph": str(place / "kidney.graph"), **changes.pop("objective", {})}
    values = {"steps": STEPS, "runs": place / "runs", "name": name, **changes}
    return steepest.train(place / "kidney.csv", config={"objective": objective}, **values)


@pytest.fixture(scope="module")
def kidney(place: Path) -> steepest.TrainedRun:
    return train(place, "kidney")


def recovered(reply: Any, condition: str) -> float:
    return float(reply[condition].p[1])


def test_simpson_seeing_says_b_and_doing_says_a(kidney: steepest.TrainedRun) -> None:
    large = sum(n for (stone, _), (_, n) in KIDNEY.items() if stone == "large") / 700
    share = {key: ok / n for key, (ok, n) in KIDNEY.items()}
    done = {t: share["small", t] * (1 - large) + share["large", t] * large for t in "AB"}
    assert done["A"] - done["B"] == pytest.approx(0.0537, abs=1e-3)
    reply = kidney.ask("recovered | do(treatment=A|B)")
    effect = reply.difference["yes"]
    seen = recovered(reply.seen, "treatment=A") - recovered(reply.seen, "treatment=B")
    assert seen < 0 and effect == pytest.approx(0.0537, abs=0.015)
    assert "stone acts on both treatment and recovered" in reply.why and not reply.warnings
    selected = kidney.ask("stone | do(treatment=A|B), recovered=yes")  # who recovered is an effect of both
    assert abs(selected.difference["large"]) > 1e-3 and "changes nothing" not in selected.why
    assert "changes nothing" in kidney.ask("stone | do(treatment=A|B)").why
    for treatment in "AB":
        assert kidney.ask(f"recovered | do(treatment={treatment})").p["yes"] == pytest.approx(
            done[treatment], abs=0.02
        )
        within = kidney.ask(f"recovered | do(treatment={treatment}), stone=large")
        assert within.p["yes"] == pytest.approx(share["large", treatment], abs=0.03)
        assert within.p_seen == pytest.approx(within.p) and "agree" in within.why


def test_held_out_figures_and_the_floor_are_kept(kidney: steepest.TrainedRun) -> None:
    result = json.loads(kidney.folder.result.read_text())
    floor = result["floor"]
    # -1.7148 is the entropy of the table itself: nothing held out can be likelier by much
    assert -1.75 < floor["blend"] < -1.70
    assert floor["blend"] > max(floor["network"], floor["shrunk counts"], floor["BDeu"]) - 0.01
    assert kidney.metrics["log_likelihood"] == floor["blend"] == result["held_out"]["log_likelihood"]
    assert sorted(name for names in result["carried"].values() for name in names) == [
        "recovered",
        "stone",
        "treatment",
    ]
    assert result["rows"] == 700


def test_rows_of_the_changed_world(kidney: steepest.TrainedRun) -> None:
    rows = kidney.sample(4000, do={"treatment": "A"}, seed=1)
    assert {row["treatment"] for row in rows} == {"A"} and set(rows[0]) == {"stone", "treatment", "recovered"}
    assert np.mean([row["recovered"] == "yes" for row in rows]) == pytest.approx(0.8326, abs=0.03)
    assert kidney.sample(5, seed=3) == kidney.sample(5, seed=3)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("recovered | do(treatment=C)", 'column "treatment" never had the value "C"; known: A, B'),
        ("recovred | treatment=A", 'no column "recovred"; did you mean "recovered"'),
        ("recovered | do(treatmnt=A)", 'no column "treatmnt"; did you mean "treatment"'),
        ("recovered | treatment=A, recovered=yes", '"recovered" is on both sides'),
        ("recovered | do(treatment=A", "cannot read the question"),
    ],
)
def test_questions_that_cannot_be_answered(kidney: steepest.TrainedRun, question: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        kidney.ask(question)


def test_a_table_is_no_text(kidney: steepest.TrainedRun) -> None:
    with pytest.raises(ConfigError, match="does not write text"):
        kidney.generate("x")
    with pytest.raises(DataError, match="every row of a causal model trains"):
        kidney.evaluate()


def test_other_rows_are_judged_by_the_blend(kidney: steepest.TrainedRun, place: Path) -> None:
    metrics = kidney.evaluate([str(place / "kidney.csv")])
    assert metrics["log_likelihood"] == pytest.approx(-1.7148, abs=0.01)
    assert metrics["network"] == pytest.approx(metrics["log_likelihood"], abs=0.02)


def test_an_opened_run_answers_the_same_and_needs_no_table(kidney: steepest.TrainedRun, place: Path) -> None:
    moved = place / "moved"
    shutil.copytree(kidney.folder.path, moved / "kidney")
    again = steepest.load("kidney", runs=moved)
    question = "recovered | do(treatment=A)"
    assert again.ask(question).p == kidney.ask(question).p


def test_resume_is_the_run_that_was_never_stopped(kidney: steepest.TrainedRun, place: Path) -> None:
    settings = ["train.checkpoint_every=50", "train.keep=9", "objective.folds=1"]
    whole = train(place, "whole", overrides=settings)
    stopped = place / "runs" / "stopped"
    shutil.copytree(whole.folder.path, stopped)
    for step, path in list_checkpoints(stopped / "checkpoints"):
        if step > 50:
            shutil.rmtree(path)
    (stopped / "result.json").unlink()
    (place / "kidney.csv").rename(place / "elsewhere.csv")  # the rows are in the run's folder
    try:
        resumed = steepest.resume("stopped", runs=place / "runs")
    finally:
        (place / "elsewhere.csv").rename(place / "kidney.csv")
    newest = [list_checkpoints(run.folder.checkpoints)[-1][1] for run in (whole, resumed)]
    one, two = (load_checkpoint(path)[0]["model"] for path in newest)
    assert one.keys() == two.keys() and all(bool((one[name] == two[name]).all()) for name in one)
    question = "recovered | do(treatment=A|B)"
    assert resumed.ask(question).difference == whole.ask(question).difference


def test_hidden_causes_settled_by_the_front_door_or_refused(tmp_path: Path) -> None:
    graph = read_graph("x -> m -> y\nx <-> y")
    world = World.random(graph, 17)
    rows = world.sample(6000, 0)
    lines = [",".join(graph.order), *(",".join(f"v{code}" for code in row) for row in rows.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "front.graph").write_text("x -> m -> y\nx <-> y")
    run = steepest.train(
        tmp_path / "t.csv", steps=100, runs=tmp_path / "runs",
        config={"objective": {"kind": "causal-graph", "graph": str(tmp_path / "front.graph")}},
    )  # fmt: skip
    for code in (0, 1):
        found = run.ask(f"y | do(x=v{code})")
        truth = world.answer("y", {"x": code})
        assert found.p["v1"] == pytest.approx(truth[1], abs=0.03)
    assert "a hidden cause" in found.why
    assert abs(found.p_seen["v1"] - truth[1]) > 0.06  # seeing would have misled
    with pytest.raises(QueryError, match="do not settle what do"):
        (tmp_path / "bow.graph").write_text("x -> m -> y\nx <-> m")
        bow = steepest.train(
            tmp_path / "t.csv", steps=2, runs=tmp_path / "runs",
            config={"objective": {"kind": "causal-graph", "graph": str(tmp_path / "bow.graph"), "folds": 1}},
        )  # fmt: skip
        bow.ask("y | do(x=v1)")


def test_values_never_seen_together_are_warned_of(tmp_path: Path) -> None:
    rows = ["z,x,y"] + ["a,0,n"] * 60 + ["a,1,y"] * 60 + ["b,0,n"] * 80  # x=1 never where z=b
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (tmp_path / "g").write_text("z -> x\nz -> y\nx -> y")
    run = steepest.train(
        tmp_path / "t.csv", steps=30, runs=tmp_path / "runs",
        config={"objective": {"kind": "causal-graph", "graph": str(tmp_path / "g"), "folds": 1}},
    )  # fmt: skip
    (warning,) = run.ask("y | do(x=1)").warnings
    assert warning.startswith("for 40% of the rows, x=1 was never seen together with their z")
    assert not run.ask("y | do(x=0)").warnings


def test_enough_steps_end_a_run_by_the_clock_early() -> None:
    now = 0.0
    run = DeadlineController(
        OptimConfig(warmup=0.1, cooldown=0.5), seconds=1000, most_steps=100, clock=lambda: now
    )
    factors = []
    while not run.done(len(factors)):
        factors.append(run.factor(len(factors)))
        now += 1.0
        run.observe(len(factors), seconds=1.0)
    assert len(factors) == 100 and max(factors) == 1.0 and factors[-1] < 0.05
    assert factors.index(1.0) == pytest.approx(
        10, abs=3
    )  # the warm-up is a share of those steps, not of the time
    slow = DeadlineController(OptimConfig(warmup=0), seconds=50, most_steps=100, clock=lambda: now)
    step = 0
    while not slow.done(step):
        step, now = step + 1, now + 1.0
        slow.observe(step, seconds=1.0)
    assert step == pytest.approx(50, abs=1)  # what the time does not buy is not made


BAD = [
    (["--graph", "cycle.graph"], "the graph has a cycle: stone -> treatment -> stone"),
    (["--graph", "self.graph"], '"stone" is drawn as its own cause'),
    (["--graph", "line.graph"], 'line.graph:2: cannot read "treatment => recovered"'),
    (["--graph", "more.graph"], 'column "age" is not in .*a <-> b'),
    (["--graph", "less.graph"], 'column "recovered" is not in .*its name alone'),
    (["--graph", "nowhere.graph"], "nowhere.graph: no such file"),
    (["--data", "kidney.csv"], "trained on one table"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(
    place: Path, tmp_path: Path, options: list[str], said: str, capsys: Any, monkeypatch: Any
) -> None:
    from steepest.cli import main

    for name, text in {
        "cycle.graph": "stone -> treatment -> stone\ntreatment -> recovered",
        "self.graph": "stone -> stone\nstone -> treatment -> recovered",
        "line.graph": "stone -> treatment\ntreatment => recovered",
        "more.graph": KIDNEY_GRAPH + "age -> stone",
        "less.graph": "stone -> treatment",
        "kidney.csv": kidney_csv(),
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "kidney.csv", "--objective", "causal-graph", "--steps", "5", *options]
    monkeypatch.setattr(sys, "argv", ["steepest", *arguments])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_the_command_line_from_the_table_to_the_answer(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    from steepest.cli import main

    def told_by(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["steepest", *arguments])
        with pytest.raises(SystemExit) as stop:
            main.main()
        assert stop.value.code == 0
        return str(capsys.readouterr().out)

    monkeypatch.chdir(place)
    told = told_by("graph", "kidney.graph", "kidney.csv")
    assert "order     stone, treatment, recovered" in told and "settled   3 of 3 effects" in told
    train = ["train", "--objective", "causal-graph", "--data", "kidney.csv", "--steps", "20"]
    told = told_by(*train, "--name", "shown", "--runs", str(tmp_path))
    assert "no graph was given: every column is taken to be a cause of all columns after it" in told
    assert "nats per row held out" in told and "ask shown" in told
    told = told_by("ask", "shown", "recovered | do(treatment=A|B)", "--runs", str(tmp_path))
    assert "do(treatment=A)" in told and "difference" in told and "They differ because stone" in told
    found = json.loads(
        told_by("ask", "shown", "recovered | do(treatment=A)", "--runs", str(tmp_path), "--json")
    )
    assert sum(found["answers"]["do(treatment=A)"]["p"].values()) == pytest.approx(1)
    assert "treatment=A" in found["seen"]


@pytest.mark.parametrize("budget", [{"epochs": 3.0}, {"tokens": 20_000}])
def test_a_budget_in_epochs_or_tokens_will_do(place: Path, tmp_path: Path, budget: dict[str, Any]) -> None:
    config = {"objective": {"kind": "causal-graph", "folds": 1}}
    run = steepest.train(place / "kidney.csv", runs=tmp_path, config=config, **budget)
    assert run.result is not None and run.result.finished
    assert run.metrics["loss"] == pytest.approx(-run.result.conclusion["floor"]["network"] / 3)
    with pytest.raises(QueryError, match="at least one row"):
        run.sample(0)


def test_a_run_by_the_clock_ends_when_its_steps_are_enough(place: Path, tmp_path: Path) -> None:
    run = steepest.train(
        place / "kidney.csv", time=30.0, runs=tmp_path,
        config={"objective": {"kind": "causal-graph", "folds": 1}, "train": {"most_steps": 40}},
    )  # fmt: skip
    assert run.result is not None and run.result.finished and run.result.step <= 40
    assert run.result.seconds < 30.0
    with pytest.raises(ConfigError, match="too short for this table"):
        steepest.train(
            place / "kidney.csv", time=0.05, config={"objective": {"kind": "causal-graph"}}, runs=tmp_path
        )
