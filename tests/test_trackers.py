"""Trackers: TensorBoard's own reader finds the figures; the others get the right calls; none can cost the run."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import steepest
from steepest.errors import ConfigError
from steepest.runs import RunFolder
from steepest.train.trackers import Trackers, check_trackers, flatten

STEP = {
    "step": 7,
    "tokens": 70,
    "seconds": 1.5,
    "loss": 2.5,
    "lr": 1e-3,
    "grad_norm": float("nan"),
    "verdict": "ok",
}
EVALUATION = {"step": 7, "tokens": 70, "seconds": 1.6, "evaluation": {"loss": 2.7, "bits_per_byte": 1.9}}
FLOW = {
    "step": 7,
    "seconds": 1.7,
    "gradient_flow": {"first_to_last": 1.2, "stream": {"gradient": [0.1, None]}},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run-001")
    made.path.mkdir()
    made.config.write_text("format = 1\n")
    return made


def never(kind: str, **fields: Any) -> None:
    raise AssertionError((kind, fields))


def scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder.path / "tensorboard"))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_flattening_keeps_finite_numbers_under_their_paths() -> None:
    assert flatten(STEP) == {"train/tokens": 70, "train/seconds": 1.5, "train/loss": 2.5, "train/lr": 1e-3}
    assert flatten(EVALUATION) == {"held_out/loss": 2.7, "held_out/bits_per_byte": 1.9}
    assert flatten(FLOW) == {"gradient_flow/first_to_last": 1.2, "gradient_flow/stream/gradient/1": 0.1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_back_what_was_logged_and_a_resumed_run_replaces_what_was_lost(
    folder: RunFolder,
) -> None:
    pytest.importorskip("tensorboard")
    first = Trackers(["tensorboard"], folder, {}, 0, never)
    for step in range(1, 11):
        first.log({**STEP, "step": step, "loss": 10.0 - step})
    first.log(EVALUATION)
    first.close()
    assert scalars(folder)["train/loss"] == [(step, 10.0 - step) for step in range(1, 11)]
    assert scalars(folder)["held_out/bits_per_byte"] == [(7, pytest.approx(1.9))]
    again = Trackers(["tensorboard"], folder, {}, 5, never)
    for step in range(6, 9):
        again.log({**STEP, "step": step, "loss": 0.5})
    again.close()
    assert scalars(folder)["train/loss"] == [
        (1, 9.0),
        (2, 8.0),
        (3, 7.0),
        (4, 6.0),
        (5, 5.0),
        (6, 0.5),
        (7, 0.5),
        (8, 0.5),
    ]


class FakeRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, figures: dict[str, float]) -> None:
        self.rows.append(figures)

    def finish(self) -> None:
        self.finished = True


def test_wandb_is_offline_without_an_account_and_keeps_its_identity(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[dict[str, Any]] = []
    run = FakeRun()
    wandb = ModuleType("wandb")
    wandb.init = lambda **options: begun.append(options) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    trackers = Trackers(["wandb"], folder, {"train": {"seed": 1}}, 0, never)
    trackers.log(STEP)
    trackers.log(EVALUATION)
    trackers.close()
    assert run.rows == [{"step": 7, **flatten(STEP)}, {"step": 7, **flatten(EVALUATION)}] and run.finished
    assert begun[0]["mode"] == "offline" and begun[0]["config"] == {"train": {"seed": 1}}
    monkeypatch.setenv("WANDB_API_KEY", "x")
    Trackers(["wandb"], folder, {}, 7, never)
    assert begun[1]["mode"] == "online" and begun[1]["id"] == begun[0]["id"] and begun[1]["resume"] == "allow"


def test_trackio(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    trackio = ModuleType("trackio")
    trackio.init = lambda **options: calls.append(options["name"])  # type: ignore[attr-defined]
    trackio.log = lambda figures, step: calls.append((step, figures))  # type: ignore[attr-defined]
    trackio.finish = lambda: calls.append("finish")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    trackers = Trackers(["trackio"], folder, {}, 0, never)
    trackers.log(STEP)
    trackers.close()
    assert calls == ["run-001", (7, flatten(STEP)), "finish"]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls: list[str] = []

    def caller(this: str) -> Callable[..., None]:
        def call(*figures: Any, **options: Any) -> None:
            calls.append(this)
            if this == where:
                raise ConnectionError("no route to host")

        return call

    trackio = ModuleType("trackio")
    for name in ("init", "log", "finish"):
        setattr(trackio, name, caller(name))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    events: list[Any] = []
    trackers = Trackers(["trackio"], folder, {}, 0, lambda kind, **fields: events.append((kind, fields)))
    trackers.log(STEP)
    trackers.log(STEP)
    trackers.close()
    assert events == [
        ("tracker failed", {"tracker": "trackio", "reason": "ConnectionError: no route to host"})
    ]
    assert calls.count(where) == 1


def test_a_missing_package_is_refused_before_anything_is_written(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name in ("wandb", "trackio") else find(name, *rest),
    )
    with pytest.raises(ConfigError, match=r"wandb is asked for.*pip install wandb"):
        check_trackers(["wandb"])
    with pytest.raises(ConfigError, match=r"trackio is asked for"):
        steepest.train(text_file, steps=1, runs=tmp_path / "runs", cache=tmp_path / "cache",
                       overrides=["train.trackers=['trackio']", "model.depth=1", "model.width=32"])  # fmt: skip
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match=r"train\.trackers"):
        steepest.train(text_file, steps=1, overrides=["train.trackers=['mlflow']"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_run_is_tracked(tmp_path: Path, text_file: Path) -> None:
    pytest.importorskip("tensorboard")
    run = steepest.train(
        text_file, steps=4, runs=tmp_path / "runs", cache=tmp_path / "cache",
        overrides=["train.trackers=['tensorboard']", "model.depth=1", "model.width=32", "model.context=32",
                   "batches.batch_tokens=64", "train.sample_tokens=0"],
    )  # fmt: skip
    written = [(r["step"], pytest.approx(r["loss"])) for r in run.folder.read_metrics() if "loss" in r]
    assert scalars(run.folder)["train/loss"] == written and len(written) == 4
