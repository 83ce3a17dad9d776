"""Samples while a run is under way: evenly, not again after a resume, and without a trace in the weights."""

from pathlib import Path

import steepest
from steepest.train.glimpses import Glimpses
from steepest.train.run import RunConfig, TrainConfig
from steepest.train.state import TrainState


def shares_written(config: TrainConfig, shares: list[float]) -> list[float]:
    lines: list[dict[str, float]] = []
    at = [0.0]
    glimpses = Glimpses(
        RunConfig(train=config),
        write=lambda tokens: "x" * tokens,
        progress=lambda state: at[0],
        log=lines.append,
    )
    state = TrainState.__new__(TrainState)
    for share in shares:
        at[0] = share
        glimpses(state, {"step": 1, "tokens": 1, "seconds": share, "loss": 2.0})
    return [line["seconds"] for line in lines]


def test_when() -> None:
    even = [i / 100 for i in range(100)]
    assert shares_written(TrainConfig(time=120), even) == [0.25, 0.5, 0.75]
    assert shares_written(TrainConfig(time=119), even) == []
    assert shares_written(TrainConfig(time=600, sample_tokens=0), even) == []
    assert shares_written(TrainConfig(steps=10, samples=1), even) == [0.5]
    assert shares_written(TrainConfig(time=600), even[60:]) == [0.75]


def test_a_run_with_samples_has_the_losses_of_one_without(tmp_path: Path, text_file: Path) -> None:
    lines = {}
    for samples in (0, 2):
        run = steepest.train(
            text_file, steps=9, runs=tmp_path / "runs", cache=tmp_path / "cache", name=f"with-{samples}",
            overrides=[f"train.samples={samples}", "model.depth=1", "model.width=32", "model.context=32", "model.dropout=0.1",
                       "batches.batch_tokens=64", "train.sample_tokens=0", "tokenizer.kind=bytes"],
        )  # fmt: skip
        lines[samples] = run.folder.read_metrics()
    losses = {samples: [line["loss"] for line in of if "loss" in line] for samples, of in lines.items()}
    assert losses[0] == losses[2] and len(losses[0]) == 9
    written = [(line["step"], line["sample"]) for line in lines[2] if "sample" in line]
    assert [step for step, _ in written] == [3, 6] and all(len(text) > 5 for _, text in written)
    assert not [line for line in lines[0] if "sample" in line]
