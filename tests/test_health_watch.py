"""A run's probes and verdicts: losses untouched, nothing written twice, found in the run folder."""

import json
import signal
from pathlib import Path

import pytest

from steepest import api
from steepest.checkpoint import list_checkpoints
from steepest.health import KINDS, gradient_flow
from steepest.runs import RunFolder
from steepest.train.evaluate import eagerly
from test_gradient_flow import batch, objective

TINY = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 2, "width": 32, "context": 32, "dropout": 0.1},
    "batches": {"batch_tokens": 256},
    "optim": {"lr": 1e-2},
    "train": {"threads": 1, "checkpoint_every": 10, "keep": 2, "evaluations": 2, "sample_tokens": 0},
}


def train(text: Path, root: Path, name: str, steps: int = 24, **tables: dict[str, object]) -> RunFolder:
    config = {key: {**TINY.get(key, {}), **tables.get(key, {})} for key in {*TINY, *tables}}
    return api.train(
        text, steps=steps, name=name, runs=root / "runs", cache=root / "cache", config=config
    ).folder


def probes(run: RunFolder) -> list[dict]:
    return [{**r, "seconds": 0} for r in run.read_metrics() if "gradient_flow" in r]


def outcome(run: RunFolder) -> tuple[list[tuple[int, float, float]], bytes]:
    losses = [(r["step"], r["loss"], r["grad_norm"]) for r in run.read_metrics() if "loss" in r]
    return losses, (list_checkpoints(run.checkpoints)[-1][1] / "model.safetensors").read_bytes()


def test_probes_change_nothing_and_resume_bit_for_bit(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = train(text_file, tmp_path, "off", health={"every": 0})
    on = train(text_file, tmp_path, "on", health={"every": 5})
    assert not probes(off) and [r["step"] for r in probes(on)] == [1, 5, 10, 15, 20]
    assert outcome(on) == outcome(off)
    flow = probes(on)[-1]["gradient_flow"]
    assert len(flow["stream"]["gradient"]) == 3 and flow["attention"]["update"][0] > 0

    def stop_at_14(name: str, fields: dict) -> None:
        if name == "step" and fields["record"]["step"] == 14:
            signal.raise_signal(signal.SIGTERM)

    config = {**TINY, "health": {"every": 5}}
    place = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    api.train(text_file, steps=24, name="stopped", config=config, listen=stop_at_14, **place)
    resumed = api.resume("stopped", **place).folder
    assert outcome(resumed) == outcome(on)
    assert probes(resumed) == probes(on)


def test_verdicts_are_events_and_in_the_result_and_said_once(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path, "sick", steps=60, optim={"lr": 1e-5}, health={"every": 10})
    events = [e for e in run.read_events() if e["event"] == "verdict"]
    assert [e["kind"] for e in events] == ["rate too low"] and events[0]["kind"] in KINDS
    assert "raise optim.lr" in events[0]["sentence"] and events[0]["figure"] < 1e-3
    result = json.loads(run.result.read_text())["verdicts"]
    assert result == [{key: value for key, value in events[0].items() if key not in ("event", "at")}]
    api.rewind("sick", to=50, go_on=False, runs=tmp_path / "runs", cache=tmp_path / "cache")
    api.resume("sick", runs=tmp_path / "runs", cache=tmp_path / "cache")
    said = [(e["kind"], e["step"]) for e in run.read_events() if e["event"] == "verdict"]
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_blocks_are_probed_eagerly() -> None:
    plain = gradient_flow(objective(), batch())
    compiled = objective()
    compiled.trunk.compile_blocks()
    with eagerly():
        assert gradient_flow(compiled, batch()) == plain
