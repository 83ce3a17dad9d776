"""Runs of classification: trained, resumed bit for bit, judged beside baselines, used; bad input in one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelled_texts import lexical_rows, ordered_rows, write_tsv
from steepest import api
from steepest.errors import SteepestError
from steepest.lexical import Effort
from steepest.objectives import ClassificationConfig
from steepest.train.kinds import ClassificationKind, classification
from steepest.train.proxy import proxy
from survival import fork, what_counts

TINY: dict[str, Any] = {
    "objective": {"kind": "classification", "metric": "accuracy"},
    "model": {"depth": 1, "width": 32},
    "train": {"threads": 1, "checkpoint_every": 4, "keep": 3, "evaluations": 5},
}


def train(
    data: Path, root: Path, name: str = "a", steps: int = 20, **tables: dict[str, Any]
) -> api.TrainedRun:
    config = {key: {**TINY.get(key, {}), **tables.get(key, {})} for key in {*TINY, *tables}}
    return api.train(data, steps=steps, name=name, runs=root / "runs", cache=root / "cache", config=config)


@pytest.fixture
def beasts(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "beasts.tsv", lexical_rows(240))


def test_a_run_says_what_it_reached_beside_the_baselines(beasts: Path, tmp_path: Path) -> None:
    test = write_tsv(tmp_path / "test.tsv", [*lexical_rows(80, seed=1), ("emu", "never seen")])
    run = train(beasts, tmp_path, objective={"test": str(test)})
    told = json.loads(run.folder.result.read_text())
    assert (
        run.kind.seconds_to_conclude(run.config) == 1.2 * told["judging_seconds"] > 0
    )  # which a deadline reserves
    assert set(told["judged"]) == {"development", "test"}
    assert set(told["judged"]["test"]) == {"steepest", *told["baselines"]} and len(told["baselines"]) == 2
    for one in told["judged"]["test"].values():
        assert one["interval"][0] <= one["accuracy"] <= one["interval"][1] and one["rows"] == 81
    assert told["winner"] in told["judged"]["test"]
    best = max(one["accuracy"] for one in told["judged"]["test"].values())
    assert told["judged"]["test"][told["winner"]]["accuracy"] == best
    # The loaded run says the same of the same texts.
    loaded = api.load("a", runs=tmp_path / "runs")
    again = loaded.evaluate([str(test)], cache=tmp_path / "cache")
    assert again["accuracy"] == pytest.approx(told["judged"]["test"]["steepest"]["accuracy"])
    assert [again["accuracy_low"], again["accuracy_high"]] == told["judged"]["test"]["steepest"]["interval"]
    said: list[str] = []
    both = write_tsv(tmp_path / "both.tsv", [*lexical_rows(240)[:30], ("emu", "never seen")])
    loaded.evaluate(
        [str(both)], cache=tmp_path / "cache", listen=lambda name, told: said.append(told["event"])
    )
    assert "of these 31 texts were trained on: a leak" in said[0] and '"emu"' in said[1]
    texts = [text for _, text in lexical_rows(80, seed=1)]
    found = loaded.predict([*texts, ""])
    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-5)
    right = sum(
        label == truth for label, (truth, _) in zip(found.labels, lexical_rows(80, seed=1), strict=False)
    )
    assert right / 81 == pytest.approx(again["accuracy"], abs=1e-6)
    assert loaded.predict([]).labels == []


def test_the_network_adds_what_words_do_not_say(tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "order.tsv", ordered_rows(900))
    test = write_tsv(tmp_path / "test.tsv", ordered_rows(300, seed=1))
    run = train(
        data, tmp_path, steps=250, objective={"test": str(test)}, model={"width": 64}, train={"checkpoint_every": 1000}
    )  # fmt: skip
    judged = run.result.conclusion["judged"]["test"]  # type: ignore[union-attr]
    baselines = [one["accuracy"] for name, one in judged.items() if name != "steepest"]
    assert judged["steepest"]["accuracy"] > max(baselines) + 0.1


def test_killed_and_resumed_it_is_the_same_run(beasts: Path, tmp_path: Path) -> None:
    whole = train(beasts, tmp_path, "whole").folder
    killed = tmp_path / "runs" / "killed"

    def until_a_checkpoint() -> None:
        def listen(name: str, fields: dict[str, Any]) -> None:
            if name == "step" and fields["record"]["step"] == 11:
                os.kill(os.getpid(), signal.SIGKILL)

        api.train(beasts, steps=20, name="killed", runs=tmp_path / "runs", cache=tmp_path / "cache", config=TINY,
                  listen=listen)  # fmt: skip

    _, status = os.waitpid(fork(until_a_checkpoint), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    resumed = api.resume("killed", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert what_counts(killed) == what_counts(whole.path)
    one, other = (json.loads((place / "result.json").read_text()) for place in (killed, whole.path))
    assert one["judged"]["development"]["steepest"] == other["judged"]["development"]["steepest"]
    assert one["blend"] == other["blend"] and one["best_step"] == other["best_step"]
    assert any(event["event"] == "resumed" for event in resumed.folder.read_events())
    # Data that changed since is refused.
    beasts.write_text(beasts.read_text() + "cat\tone more\n")
    with pytest.raises(SteepestError, match="the data of run whole has changed"):
        api.rewind("whole", to=8, runs=tmp_path / "runs", cache=tmp_path / "cache")


def test_rewound_with_another_rate_it_goes_on_elsewhere(beasts: Path, tmp_path: Path) -> None:
    whole = train(beasts, tmp_path, "whole").folder
    api.rewind("whole", to=12, overrides=["optim.lr=0.5"], new_name="other", runs=tmp_path / "runs",
               cache=tmp_path / "cache")  # fmt: skip
    other = what_counts(tmp_path / "runs" / "other")
    assert other[0][:12] == what_counts(whole.path)[0][:12] and other[1] != what_counts(whole.path)[1]
    assert api.load("other", runs=tmp_path / "runs").predict(["the red cat sat"]).labels == ["cat"]


def test_it_stops_when_the_metric_no_longer_rises(beasts: Path, tmp_path: Path) -> None:
    run = train(
        beasts, tmp_path, steps=90, train={"evaluations": 30, "patience": 3, "checkpoint_every": 1000}
    )
    assert run.result is not None and run.result.finished
    evaluations = [line["evaluation"] for line in run.folder.read_metrics() if "evaluation" in line]
    ranked = [(-one["accuracy"], one["log_loss"]) for one in evaluations[1:]]  # the loss breaks ties
    stale = len(ranked) - 1 - ranked.index(min(ranked))
    assert 30 <= run.result.step < 90 and stale >= 3
    assert run.result.step == 30 or stale == 3  # not before a third of the run, and then at once
    assert any(event["event"] == "stopped early" for event in run.folder.read_events())
    assert run.result.metrics["accuracy"] == -min(ranked)[0]


def test_the_lowest_loss_and_the_best_metric_are_both_named() -> None:
    class Judged:
        metric = "macro_f1"

    lines = [
        {"step": step, "evaluation": {"loss": loss, "macro_f1": f1}}
        for step, loss, f1 in [(0, 9.0, 0.99), (10, 0.5, 0.6), (20, 0.4, 0.7), (30, 0.6, 0.8)]
    ]
    found = proxy([*lines, {"step": 31, "loss": 0.1}], 30, Judged())  # type: ignore[arg-type]
    assert (found["lowest_loss_step"], found["metric_at_lowest_loss"], found["differ"]) == (20, 0.7, True)
    assert (found["metric_at_best"], found["loss_at_best"]) == (0.8, 0.6)
    assert found["steps"] == [10, 20, 30] and found["losses"] == [0.5, 0.4, 0.6]
    assert not proxy(lines[:3], 20, Judged())["differ"]  # type: ignore[arg-type]


BAD = {
    "one class": ([("a", "x y"), ("a", "z w")], [], 'all 2 texts are of one class, "a"; classification needs two'),
    "empty texts": ([("a", ""), ("b", " ")], [], "every text is empty"),
    "no such column": ([("a", "x"), ("b", "y")], ["objective.label_column=lable"], 'no column "lable"'),
    "unknown metric": ([("a", "x"), ("b", "y")], ["objective.metric=macrof1"], 'did you mean "macro_f1"'),
    "metric of another objective": ([("a", "x"), ("b", "y")], ["objective.metric=bits_per_byte"], "has no metric"),
    "binary metric": ([(label, f"{label} {n}") for label in "abc" for n in "xy"], ["objective.metric=f1"], "is for two classes"),
    "missing test": ([("a", "x"), ("b", "y")], ["objective.test=tst.tsv"], "no such file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_on_disk(case: str, tmp_path: Path) -> None:
    rows, overrides, message = BAD[case]
    data = write_tsv(tmp_path / "rows.tsv", rows)
    with pytest.raises(SteepestError, match=message) as caught:
        api.train(
            data, steps=3, runs=tmp_path / "runs", cache=tmp_path / "cache", config=TINY, overrides=overrides
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_class_with_one_example_and_an_empty_text_are_no_hindrance(tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "rows.tsv", [*lexical_rows(60), ("once", "a single one"), ("cat", "")])
    run = train(data, tmp_path, steps=4)
    assert isinstance(run.config.objective, ClassificationConfig)
    assert run.config.objective.labels == ["cat", "dog", "once", "owl"]
    assert len(run.result.conclusion["notes"]) == 2  # type: ignore[union-attr]


def test_where_time_is_short_few_rows_are_fitted_and_the_others_judged(
    beasts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = Effort(("words",), (1.0,), 2, np.arange(0, 160, 4), baselines=False)
    monkeypatch.setattr(classification, "choose_effort", lambda *_: little)
    run = train(beasts, tmp_path, steps=4)
    told = run.result.conclusion  # type: ignore[union-attr]
    assert told["lexical"]["rows"] == 40 and not told["baselines"] and told["winner"] == "steepest"
    assert set(told["judged"]["development"]) == {"steepest"}
    assert isinstance(run.kind, ClassificationKind)
    offset = run.kind.offsets[0]
    assert np.allclose(np.exp(offset).sum(1), 1, atol=1e-5) and len(offset) > 160  # every row has one
    assert run.result.metrics["accuracy"] > 0.6  # type: ignore[union-attr]


def test_the_commands(beasts: Path, tmp_path: Path) -> None:
    def steepest(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "steepest", *words], cwd=tmp_path, capture_output=True,
                              text=True, timeout=120)  # fmt: skip

    done = steepest("train", "--objective", "classification", "--data", "beasts.tsv", "--metric", "macro_f1", "--steps",
                    "6", "--depth", "1", "--width", "32", "--name", "a", "--cache", "cache")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "reached" in done.stdout
        and "logistic regression" in done.stdout
        and "steepest predict a" in done.stdout
    )
    (tmp_path / "new.txt").write_text("the red cat sat\nthe owl\n")
    done = steepest("predict", "a", "new.txt", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["cat", "owl"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(SteepestError, match="run a does not write text"):
        api.load("a", runs=tmp_path / "runs").generate()
