"""Going on from another run: any objective from any other, and next-token training of a task's own texts first."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_text
from labelled_texts import lexical_rows, write_tsv
from steepest import api
from steepest.errors import ConfigError

SMALL: dict[str, Any] = {"depth": 1, "width": 32}
STILL = {"lr": 1e-12}  # nothing moves, so what was taken over is still there


def train(root: Path, data: Path, kind: str, name: str, steps: int = 2, **more: Any) -> api.TrainedRun:
    config = {
        "objective": {"kind": kind},
        "model": {} if "start" in more else SMALL,
        "optim": more.pop("optim", {}),
        "train": {"threads": 1, "sample_tokens": 0, "evaluations": 2},
    }
    return api.train(
        data, steps=steps, name=name, runs=root / "runs", cache=root / "cache", config=config, **more
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    text = tmp_path / "text.txt"
    text.write_text(make_text(400))
    return {"next-token": text, "classification": write_tsv(tmp_path / "rows.tsv", lexical_rows(80))}


@pytest.mark.parametrize("first", ["next-token", "classification"])
@pytest.mark.parametrize("second", ["next-token", "classification"])
def test_any_objective_goes_on_from_any_other(
    files: dict[str, Path], tmp_path: Path, first: str, second: str
) -> None:
    one = train(tmp_path, files[first], first, "one", optim={"lr": 0.05})
    other = train(tmp_path, files[second], second, "other", optim=STILL, start="one")
    assert other.tokenizer.fingerprint == one.tokenizer.fingerprint
    source = api.load("one", runs=tmp_path / "runs").objective.state_dict()
    for name, value in other.objective.state_dict().items():
        if name.startswith("trunk."):
            assert torch.allclose(value, source[name], atol=1e-6), name
        elif first == second and name.startswith("head."):
            assert torch.allclose(value, source[name], atol=1e-6) and value.abs().max() > 0
    assert json.loads((tmp_path / "runs/other/plan.json").read_text())["parameters"] > 0
    assert other.config.train.start == str((tmp_path / "runs/one").absolute())


def test_another_shape_than_that_runs_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    train(tmp_path, files["next-token"], "next-token", "one")
    with pytest.raises(ConfigError, match="--from one has width 32, and 64 was asked for"):
        train(tmp_path, files["classification"], "classification", "other", start="one",
              overrides=["model.width=64"])  # fmt: skip
    assert not (tmp_path / "runs/other").exists()


@pytest.mark.parametrize("share", ["30%", "auto"])
def test_a_task_may_spend_a_part_on_predicting_its_own_texts(tmp_path: Path, share: str) -> None:
    rows = write_tsv(tmp_path / "rows.tsv", lexical_rows(300))
    run = train(tmp_path, rows, "classification", "task", steps=40, pretrain=share)
    told = json.loads(run.folder.plan.read_text())["pretraining"]
    before = api.load("task-pretraining", runs=tmp_path / "runs")
    assert before.config.objective.kind == "next-token" and told["run"] == "task-pretraining"
    assert before.tokenizer.fingerprint == run.tokenizer.fingerprint
    steps = {"30%": (12, 28), "auto": (4, 32)}[share]
    assert (before.config.train.steps, run.config.train.steps) == steps
    kept = share != "auto" or told["trials"]["pretrained"]["macro_f1"] > told["trials"]["fresh"]["macro_f1"]
    assert told["kept"] == kept
    assert run.config.train.start == (str(before.folder.path.absolute()) if kept else None)


def test_pretraining_needs_texts_of_a_task(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fresh start on labelled texts; the objective is next-token"):
        train(tmp_path, files["next-token"], "next-token", "one", pretrain="20%")
    with pytest.raises(ConfigError, match='"auto", "none" or a share such as "20%"; got "twenty"'):
        train(tmp_path, files["next-token"], "next-token", "one", pretrain="twenty")
    assert not (tmp_path / "runs").exists()


def test_the_weights_that_are_loaded_are_those_that_were_reported(tmp_path: Path) -> None:
    """Also where a checkpoint is due at the last step, before the evaluation that makes it the best."""
    text = tmp_path / "text.txt"
    text.write_text(make_text(600))
    config = {
        "model": SMALL,
        "train": {"threads": 1, "sample_tokens": 0, "evaluations": 2, "checkpoint_every": 5},
    }
    run = api.train(text, steps=20, name="a", runs=tmp_path / "runs", cache=tmp_path / "cache", config=config)
    again = api.load("a", runs=tmp_path / "runs")
    assert run.result is not None and again.step == run.result.best_step == 20
    told = again.evaluate(cache=tmp_path / "cache")
    assert told == run.evaluate(cache=tmp_path / "cache")


def test_what_is_predicted_first_runs_as_the_task_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_tsv(tmp_path / "rows.tsv", lexical_rows(120))
    asked: list[dict[str, Any]] = []
    real = api.train

    def heard(*sources: Any, **named: Any) -> Any:
        asked.append(named["config"]["train"])
        return real(*sources, **named)

    monkeypatch.setattr(sys.modules["steepest.api.training"], "train", heard)
    config = {"objective": {"kind": "classification"}, "model": SMALL,
              "train": {"threads": 1, "memory": 8 * 10**9, "device": "cpu", "dtype": "float32", "evaluations": 1}}  # fmt: skip
    real(
        rows,
        steps=6,
        name="task",
        runs=tmp_path / "runs",
        cache=tmp_path / "cache",
        config=config,
        pretrain="50%",
    )
    assert len(asked) == 1
    assert {name: asked[0][name] for name in ("memory", "device", "dtype")} == {
        "memory": 8 * 10**9, "device": "cpu", "dtype": "float32",
    }  # fmt: skip
