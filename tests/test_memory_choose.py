"""The chooser against exhaustive search, and what it says when nothing fits."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from steepest.api import TrainedRun, resume, train
from steepest.cli import inspect_memory  # noqa: F401  registers the command
from steepest.cli.main import app
from steepest.config import build
from steepest.errors import ConfigError
from steepest.memory.choose import Holding, NothingFits, choose_split, halvings
from steepest.memory.measure import peak
from steepest.memory.predict import Moment, Prediction
from steepest.objectives import NextToken
from steepest.train import split
from steepest.train.footprint import Subject, measure_training, predict_training
from steepest.train.run import RunConfig
from steepest.train.split import fit, unpredicted

PLAIN = Holding("plain", share=0.0)
SLOW = Holding("slow", share=-0.2, slower=1.3)
SMALL = ["model.depth=2", "model.width=64", "batches.batch_tokens=2048", "tokenizer.kind=bytes",
         "train.sample_tokens=0", "train.evaluations=0", "optim.optimizer=adamw"]  # fmt: skip


def step(sequences: int, depth: int, micro: int, k: int) -> Prediction:
    """A step whose bytes are convex in k, as a real one's are."""
    stored = (depth - k) * 90 * micro + k * 4 * micro
    peak = 5000 + max(stored, 1500) + 90 * micro * (k > 0) + (3000 if micro < sequences else 0)
    flops = math.ceil(sequences / micro) * micro * (3 * depth + k + 2)
    return Prediction(peak, 5000, stored, {"forward": Moment(5000, activations=peak - 5000)}, 0, 0,
                      {"forward": float(flops)}, {}, {}, 0.0)  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_the_fastest_that_fits_by_exhaustive_search(seed: int) -> None:
    dice = random.Random(seed)
    sequences, depth = dice.choice([8, 16, 32]), dice.choice([4, 12, 24])
    limit = dice.randint(9000, 60_000)

    def time_block(micro: int) -> tuple[float, float]:
        return micro + 0.3, 3 * micro + 1.0

    def seconds(micro: int, k: int) -> float:
        forward, block = time_block(micro)
        return math.ceil(sequences / micro) * (depth * block * (3 * depth + 2) / (3 * depth) + k * forward)

    feasible = [
        holding.slower * seconds(micro, k)
        for micro in halvings(sequences)
        for k in range(depth + 1)
        for holding in (PLAIN, SLOW)
        if holding.bytes(step(sequences, depth, micro, k)) <= limit
    ]
    asked = []

    def predict(micro: int, k: int) -> Prediction:
        asked.append((micro, k))
        return step(sequences, depth, micro, k)

    choice = choose_split(sequences=sequences, depth=depth, limit=limit, predict=predict, time_block=time_block,
                          holdings=(PLAIN, SLOW))  # fmt: skip
    assert choice.split.taken <= limit
    assert choice.split.seconds == pytest.approx(min(feasible), rel=0.05)
    assert (
        choice.split.micro_batch,
        choice.split.recompute_blocks,
    ) in asked  # confirmed by a prediction of its own
    assert len(asked) < 60


def test_nothing_fits_says_the_least_that_would() -> None:
    with pytest.raises(
        NothingFits, match=r"nothing fits 0\.001 MB: .* needs 0\.007 MB, of which 0\.005 MB are weights"
    ) as refusal:
        choose_split(
            sequences=4, depth=4, limit=1000, predict=lambda micro, k: step(4, 4, micro, k),
            time_block=lambda micro: (1.0, 3.0), holdings=[PLAIN],
        )  # fmt: skip
    assert refusal.value.needed == 6860  # all at once: each micro-batch beyond the first holds gradients


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_must_be_positive(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"more than 0 bytes; got {limit}"):
        choose_split(
            sequences=4, depth=4, limit=limit, predict=lambda micro, k: step(4, 4, micro, k),
            time_block=lambda micro: (1.0, 3.0),
        )  # fmt: skip


def events(run: TrainedRun) -> dict[str, dict[str, Any]]:
    return {event["event"]: event for event in run.folder.read_events()}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    from conftest import make_text

    folder = tmp_path_factory.mktemp("limited")
    (folder / "text.txt").write_text(make_text(1500))
    return train(folder / "text.txt", steps=3, memory="8GB", runs=folder, name="a", overrides=SMALL)


def test_a_run_within_a_limit_records_predicted_and_measured(limited: TrainedRun) -> None:
    plan = json.loads(limited.folder.plan.read_text())["memory"]
    assert plan["predicted"] <= plan["limit"] == 8_000_000_000
    assert plan["considered"][0]["reason"] == "the fastest that fits"
    result = json.loads(limited.folder.result.read_text())["memory"]
    assert result["predicted"] == plan["predicted"] and result["measured"] > 50e6
    assert events(limited)["memory measured"]["predicted"] == plan["predicted"]
    assert limited.config.train.micro_batch == plan["micro_batch"]


def test_inspect_draws_predicted_beside_measured(limited: TrainedRun, tmp_path: Path) -> None:
    picture = tmp_path / "step.png"
    done = CliRunner().invoke(app, ["inspect", "memory", str(limited.folder.path), "--png", str(picture)])
    assert done.exit_code == 0, done.output
    for word in (
        "weights",
        "optimiser",
        "gradients",
        "activations",
        "backward",
        "inference",
        "measured",
        "█",
    ):
        assert word in done.output
    assert picture.stat().st_size > 5000


def test_inspect_says_what_a_limit_would_choose(limited: TrainedRun) -> None:
    run = str(limited.folder.path)
    done = CliRunner().invoke(app, ["inspect", "memory", run, "--memory", "9GB", "--predict"])
    assert done.exit_code == 0, done.output
    assert "predicted of 9.00 GB" in done.output and "the fastest that fits" in done.output
    assert "measured:" not in done.output
    with pytest.raises(ConfigError, match="nothing fits 1 MB"):
        CliRunner().invoke(app, ["inspect", "memory", run, "--memory", "1MB"], catch_exceptions=False)


def small(sequences: int = 4, **fields: Any) -> RunConfig:
    """A config whose process is set aside, so that limits are about the step alone."""
    model = {"depth": 3, "width": 64, "vocab_size": 64, "context": 64} | fields.pop("model", {})
    train = {"steps": 1, "device": "cpu", "dtype": "float32"} | fields.pop("train", {})
    optim = {"optimizer": "adamw"} | fields.pop("optim", {})
    batches = {"batch_tokens": sequences * model["context"]}
    return build(RunConfig, {"model": model, "train": train, "optim": optim, "batches": batches})


def test_weights_are_updated_in_the_backward_pass_only_when_nothing_else_fits() -> None:
    def choose(limit: int, clip: float) -> RunConfig:
        config = small(sequences=1, optim={"clip": clip}, train={"memory": limit})
        return fit(config, preferred=1, holdings=[PLAIN], before=0)[0]

    least = min(predict_training(small(sequences=1), recompute_blocks=k).peak for k in (0, 3))
    assert not choose(least, clip=0.0).train.step_in_backward
    chosen = choose(least - 1, clip=0.0)
    assert chosen.train.step_in_backward and chosen.health.every == 0
    assert predict_training(chosen).peak < least
    # A gradient that is clipped must be whole: the way is named, not taken.
    with pytest.raises(
        ConfigError, match=r'or "--set optim.clip=0", .* MB, or "--set model.coupling=reversible"'
    ):
        choose(least - 1, clip=1.0)


def test_updates_in_the_backward_pass_need_the_whole_batch() -> None:
    config = small(optim={"clip": 0.0}, train={"step_in_backward": True, "micro_batch": 2})
    with pytest.raises(ConfigError, match=r"needs all 4 sequences .* train\.micro_batch 2"):
        fit(config, preferred=4)


class Own(NextToken):
    """An objective that makes its gradient in a way of its own."""

    def accumulate_gradient(self, *arguments: Any, **named: Any) -> torch.Tensor:
        return super().accumulate_gradient(*arguments, **named)


def test_an_objective_with_several_backward_passes_keeps_its_gradients() -> None:
    subject = Subject(lambda config, trunk: Own(trunk, np.ones(config.model.vocab_size, np.int64)))
    early = small(2, optim={"clip": 0.0}, train={"step_in_backward": True})
    with pytest.raises(ConfigError, match="gradient takes several backward passes"):
        fit(early, preferred=2, subject=subject)
    for clip in (0.0, 1.0):
        refused = small(2, model={"depth": 1}, optim={"clip": clip}, train={"memory": 1000})
        with pytest.raises(ConfigError, match="nothing fits") as error:
            fit(refused, preferred=2, subject=subject, holdings=[PLAIN], before=0)
        assert "within the backward pass" not in str(error.value)


def test_a_choice_that_the_whole_depth_does_not_confirm_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if blocks were not alike: the shallow runs then promise too little."""

    honest = split.predict_training

    def predict(*arguments: Any, whole: bool, **named: Any) -> Prediction:
        found = honest(*arguments, whole=False, **named)
        more = found.phases["backward"]
        phases = found.phases | {"backward": replace(more, activations=more.activations + found.peak)}
        return replace(found, peak=2 * found.peak, phases=phases) if whole else found

    monkeypatch.setattr(split, "predict_training", predict)
    limit = round(1.5 * honest(small(), micro_batch=4).peak)
    config, found = fit(small(train={"memory": limit}), preferred=4, holdings=[PLAIN], before=0)
    assert (config.train.micro_batch, config.train.recompute_blocks) != (4, None)
    assert 2 * honest(config).peak == found.choice.split.peak <= limit


@pytest.mark.parametrize(
    "model",
    [
        {"context": 1},
        {"width": 96, "head_dim": 32, "heads": 2, "kv_heads": 1},
        {"vocab_size": 50_000, "width": 32},
        {"dropout": 0.2, "tie_embeddings": True, "coupling": "reversible"},
    ],
    ids=["context 1", "heads narrower than the width", "vocabulary 50,000", "dropout, tied, reversible"],
)
def test_odd_shapes_are_predicted_and_fitted(model: dict[str, Any]) -> None:
    config = small(model={"depth": 2, **model}, train={"micro_batch": 7})  # more than the batch has
    peak = predict_training(config).peak
    assert peak == pytest.approx(max(measure_training(config)), rel=2e-3)
    limited = config.replace(train=config.train.replace(memory=peak))
    assert fit(limited, preferred=4, holdings=[PLAIN], before=0)[1].choice.split.taken <= peak


def test_a_limit_changes_the_split_and_not_the_batch(text_file: Path, tmp_path: Path) -> None:
    whole = train(text_file, steps=2, runs=tmp_path, name="whole", overrides=SMALL)
    split = train(text_file, steps=2, runs=tmp_path, name="split",
                  overrides=[*SMALL, "train.micro_batch=2", "train.recompute_blocks=1"])  # fmt: skip
    losses = [[r["loss"] for r in run.folder.read_metrics() if "loss" in r] for run in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert split.config.train.micro_batch == 2 and split.config.train.recompute_blocks == 1


def test_a_run_that_takes_more_than_its_limit_is_split_anew(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.train import memory_watch

    monkeypatch.setattr(split, "resident", lambda device: 0)
    limit = 60_000_000
    monkeypatch.setattr(memory_watch, "peak", lambda device: limit + 1)
    run = train(text_file, steps=3, memory=limit, runs=tmp_path, name="a", overrides=SMALL)
    assert {"memory measured", "memory split anew"} <= events(run).keys()
    plan = json.loads(run.folder.plan.read_text())["memory"]
    assert plan["split_anew_at"] == 2 and plan["predicted"] <= limit
    before, after = events(run)["memory measured"], events(run)["memory split anew"]
    assert before["measured"] > limit and after["micro_batch"] == plan["micro_batch"]
    run.folder.result.unlink()  # as if killed before it was written
    assert resume("a", runs=tmp_path).config.train.micro_batch == plan["micro_batch"]


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("2GX", '"2GX" is in no unit of memory; did you mean "2GB"?'),
        ("2 gigs", 'did you mean "2GiB"?'),
        ("two", 'a size is written like "512MB", "2GB" or "2GiB"; got "two"'),
        ("-2GB", 'must be more than 0 bytes; got "-2GB"'),
        ("0", 'must be more than 0 bytes; got "0"'),
        (-5, "more than 0 bytes"),
        (
            "1MB",
            r"nothing fits 1 MB: the least of all splits needs \d+ MB, .*reversible.*, which needs \d+ MB",
        ),
    ],
)
def test_bad_limits_are_one_clear_line(
    text_file: Path, tmp_path: Path, memory: str | int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However much the tests before have left in this process.
    monkeypatch.setattr(split, "_beside", lambda config, peak: 2 * 10**8)
    with pytest.raises(ConfigError, match=message) as error:
        train(text_file, steps=1, memory=memory, runs=tmp_path / "runs", overrides=SMALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_hasty_run_predicts_nothing_where_memory_is_far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(RunConfig, {"model": {"depth": 2, "width": 64}, "batches": {"batch_tokens": 2048}})
    monkeypatch.setattr(split, "free", lambda device: 100 * peak())
    found = unpredicted(config, preferred=4)
    assert found is not None
    settled, record = found
    assert settled.train.micro_batch == record["micro_batch"] == 4 and settled.train.backward == "store"
    assert "predicted" not in record and record["timed"] == peak()
    given = config.replace(train=config.train.replace(micro_batch=2))
    assert (unpredicted(given, preferred=4) or (given,))[0].train.micro_batch == 2
    monkeypatch.setattr(split, "free", lambda device: peak())  # near: 16 times the steps timed would not fit
    assert unpredicted(config, preferred=4) is None
    recomputing = config.replace(train=config.train.replace(backward="recompute"))
    monkeypatch.setattr(split, "free", lambda device: 100 * peak())
    assert unpredicted(recomputing, preferred=4) is None


def test_a_bag_without_blocks_is_split_too() -> None:
    choice = choose_split(sequences=8, depth=0, limit=10**6, predict=lambda micro, k: step(8, 0, micro, k),
                          time_block=lambda micro: (0.0, 0.0), holdings=(PLAIN, SLOW))  # fmt: skip
    assert {one.reason(10**6, choice.split) for one in choice.considered} == {
        "the fastest that fits",
        "0% slower",
    }
    bag = build(RunConfig, {"model": {"depth": 0, "width": 32}, "train": {"device": "cpu"}})
    assert split.time_block(bag, 4) == (0.0, 0.0)
