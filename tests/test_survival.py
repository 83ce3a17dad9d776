"""What a run must survive: kill -9 at any moment, damage, signals, a full disk, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import make_text
from steepest import api
from steepest.checkpoint import list_checkpoints, load_checkpoint
from steepest.errors import SteepestError
from steepest.runs import RunFolder

HERE = Path(__file__).parent
TINY = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 1, "width": 32, "context": 32},
    "batches": {"batch_tokens": 256},
    "optim": {"lr": 1e-2},
    "train": {"threads": 1, "checkpoint_every": 4, "keep": 2, "evaluations": 3, "sample_tokens": 0},
}


def losses(run: RunFolder) -> list[tuple[int, float, float]]:
    return [(r["step"], r["loss"], r["grad_norm"]) for r in run.read_metrics() if "loss" in r]


def weights(run: RunFolder) -> bytes:
    return (list_checkpoints(run.checkpoints)[-1][1] / "model.safetensors").read_bytes()


def train(text: Path, root: Path, name: str = "a", steps: int = 24, **tables: dict[str, object]) -> RunFolder:
    config = {key: {**TINY.get(key, {}), **tables.get(key, {})} for key in {*TINY, *tables}}
    return api.train(
        text, steps=steps, name=name, runs=root / "runs", cache=root / "cache", config=config
    ).folder


def test_twenty_deaths_leave_the_same_losses_and_weights(text_file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "survival.py"), str(text_file), str(tmp_path), "20"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "killed 20" in done.stdout
    whole, killed = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert len(losses(whole)) == 60
    assert losses(killed) == losses(whole)
    assert weights(killed) == weights(whole)
    evaluations = [
        [r["evaluation"] for r in run.read_metrics() if "evaluation" in r] for run in (whole, killed)
    ]
    assert evaluations[0] == evaluations[1]
    assert (
        json.loads(killed.result.read_text())["held_out"] == json.loads(whole.result.read_text())["held_out"]
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(text_file: Path, tmp_path: Path, sent: signal.Signals) -> None:
    whole = train(text_file, tmp_path, "whole", steps=40)
    process = subprocess.Popen(
        [sys.executable, "-m", "steepest", "train", str(text_file), "--steps", "40", "--name", "stopped", "--runs",
         str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--config", str(whole.config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = RunFolder(tmp_path / "runs" / "stopped")
    while process.poll() is None and not list_checkpoints(run.checkpoints):
        time.sleep(0.002)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run ended before the signal came")
    assert process.returncode == 128 + sent, err
    assert "go on with: steepest resume stopped" in out
    api.resume("stopped", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "foreign"])
def test_a_damaged_checkpoint_is_passed_over_by_name(text_file: Path, tmp_path: Path, harm: str) -> None:
    run = train(text_file, tmp_path)
    before = losses(run)
    (_, older), (_, newest) = list_checkpoints(run.checkpoints)[-2:]
    file = newest / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(
        {"truncate": data[:-7], "flip": data[:100] + bytes([data[100] ^ 1]) + data[101:], "empty": b"",
         "foreign": b"PK\x03\x04" + data[4:]}[harm]
    )  # fmt: skip
    heard: list[tuple[str, dict[str, object]]] = []
    api.resume(
        "a", runs=tmp_path / "runs", cache=tmp_path / "cache", listen=lambda n, f: heard.append((n, f))
    )
    told = [
        str(fields["reason"]) for name, fields in heard if fields.get("event") == "checkpoint passed over"
    ]
    assert len(told) == 1 and newest.name in told[0] and "model.safetensors" in told[0]
    assert losses(run) == before
    assert older != newest


def test_when_no_checkpoint_is_whole_it_says_so_and_touches_nothing(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path)
    for _, path in list_checkpoints(run.checkpoints):
        (path / "manifest.json").write_text("{}")
    files = {
        path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"
    }
    with pytest.raises(SteepestError, match="no whole checkpoint"):
        api.resume("a", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert files == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}


def before_rate(run: RunFolder) -> float:
    """The rate of step 13 in what the first rewind abandoned."""
    abandoned = RunFolder(sorted(run.history.iterdir())[0])
    return float(next(r["lr"] for r in abandoned.read_metrics() if r["step"] == 13 and "lr" in r))


def test_rewind_changes_a_mistake_and_keeps_what_it_abandons(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path, train={"keep": 10})
    before = losses(run)
    api.rewind("a", to=13, overrides=["optim.lr=1e-3"], runs=tmp_path / "runs", cache=tmp_path / "cache")
    after = losses(run)
    assert after[:12] == before[:12] and after[12:] != before[12:] and len(after) == 24
    (rate,) = (r["lr"] for r in run.read_metrics() if r["step"] == 13 and "lr" in r)
    assert rate == pytest.approx(before_rate(run) / 10)
    (kept,) = run.history.iterdir()
    abandoned = RunFolder(kept)
    assert losses(abandoned) == before and "lr = 0.01" in abandoned.config.read_text()
    assert [step for step, _ in list_checkpoints(abandoned.checkpoints)] == [16, 20, 24]
    api.rewind("a", to=12, overrides=["optim.lr=1e-2"], runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert losses(run) == before  # the mistake taken back: bit for bit where it was
    assert len(list(run.history.iterdir())) == 2


def test_rewind_under_a_new_name_leaves_the_old_run_alone(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path, train={"keep": 10})
    files = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    fork = api.rewind("a", to=8, overrides=["optim.weight_decay=0.0"], new_name="b", runs=tmp_path / "runs",
                      cache=tmp_path / "cache")  # fmt: skip
    assert isinstance(fork, api.TrainedRun) and fork.folder.name == "b"
    assert fork.step == fork.result.best_step > 8  # type: ignore[union-attr]
    assert losses(fork.folder)[:8] == losses(run)[:8] and len(losses(fork.folder)) == 24
    assert files == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_rewind_refuses_what_cannot_be(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path)
    files = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}
    for arguments, message in [
        ({"to": 1}, "no checkpoint at or before step 1; it has"),
        ({"to": 24, "overrides": ["optim.rl=1"]}, 'unknown key "optim.rl"'),
        ({"to": 24, "overrides": ["model.width=64"]}, "does not fit the configured model"),
        ({"to": 24, "new_name": "a"}, "is taken"),
    ]:
        with pytest.raises(SteepestError, match=message):
            api.rewind("a", runs=tmp_path / "runs", cache=tmp_path / "cache", **arguments)  # type: ignore[arg-type]
    assert files == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_run_by_steps_is_a_pure_function_of_config_and_seed(text_file: Path, tmp_path: Path) -> None:
    first, second = train(text_file, tmp_path, "one"), train(text_file, tmp_path, "two")
    other = train(text_file, tmp_path, "three", train={"seed": 1})
    assert losses(first) == losses(second) != losses(other)
    assert weights(first) == weights(second) != weights(other)


def test_a_hopeless_rate_stops_with_advice_and_keeps_the_checkpoints(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path, train={"keep": 10})
    kept = [path.name for _, path in list_checkpoints(run.checkpoints)]
    with pytest.raises(SteepestError, match=r"steps skipped in a row.*lower optim.lr"):
        api.rewind("a", to=12, overrides=["optim.lr=1e30", "optim.clip=0", "train.steps=80"],
                   runs=tmp_path / "runs", cache=tmp_path / "cache")  # fmt: skip
    assert [path.name for _, path in list_checkpoints(run.checkpoints)][:3] == kept[:3]
    assert any(event["event"] == "step skipped" for event in run.read_events())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_one_message_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(make_text(1500))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(SteepestError, match="space"):
            api.train(text, steps=400, name="a", runs=disk / "runs", cache=tmp_path / "cache",
                      config={**TINY, "train": {**TINY["train"], "keep": 100, "checkpoint_every": 2}})  # fmt: skip
        checkpoints = list_checkpoints(disk / "runs" / "a" / "checkpoints")
        assert checkpoints
        for _, path in checkpoints:
            load_checkpoint(path)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_run_goes_on_with_the_text_it_began_with(text_file: Path, tmp_path: Path) -> None:
    whole = train(text_file, tmp_path, "whole")
    stopped = train(text_file, tmp_path, "stopped")
    shutil.rmtree(list_checkpoints(stopped.checkpoints)[-1][1])
    stopped.result.unlink()
    places = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    judged = api.load("whole", runs=places["runs"]).evaluate(cache=places["cache"])
    text_file.write_text(make_text(2000, seed=5))  # as many bytes of other text, or more
    resumed = api.resume("stopped", **places)
    assert losses(stopped) == losses(whole) and weights(stopped) == weights(whole)
    assert resumed.evaluate(cache=places["cache"]) == judged
    text_file.unlink()
    assert api.load("whole", runs=places["runs"]).evaluate(cache=places["cache"]) == judged
    # Once the encoded text is gone, other text is not taken for it.
    shutil.rmtree(tmp_path / "cache" / "corpora")
    text_file.write_text(make_text(2000, seed=5))
    with pytest.raises(SteepestError, match="has changed since it began"):
        api.load("whole", runs=places["runs"]).evaluate(cache=places["cache"])


def test_a_finished_run_is_not_finished_again(text_file: Path, tmp_path: Path) -> None:
    run = train(text_file, tmp_path)
    result = run.result.read_bytes()
    with pytest.raises(SteepestError, match=r"is finished; go back in it with: steepest rewind a"):
        api.resume("a", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert run.result.read_bytes() == result


def test_a_rewound_run_by_the_clock_decides_anew(text_file: Path, tmp_path: Path) -> None:
    places = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    config = {**TINY, "train": {**TINY["train"], "dtype": "float32", "keep": 10_000}}
    run = api.train(text_file, time=7, name="a", config=config, **places).folder
    last = losses(run)[-1][0]
    api.rewind("a", to=8, overrides=["train.time=1e9", f"train.most_steps={last + 40}"], **places)
    assert losses(run)[-1][0] == last + 40  # not where the first schedule ended


def test_a_best_that_a_rewind_has_lost_is_forgotten(text_file: Path, tmp_path: Path) -> None:
    places = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    run = train(text_file, tmp_path)
    record = json.loads((list_checkpoints(run.checkpoints)[-1][1] / "state.json").read_text())
    best = record["best"]["step"]
    api.rewind("a", to=24, new_name="with", go_on=False, **places)
    kept = [step for step, _ in list_checkpoints((tmp_path / "runs" / "with") / "checkpoints")]
    assert kept == sorted({best, 24})
    for step, path in list_checkpoints(run.checkpoints):
        if step == best != 24:
            shutil.rmtree(path)
    state = json.loads((dict(list_checkpoints(run.checkpoints))[24] / "state.json").read_text())
    assert state["best"]["step"] == best


@pytest.mark.parametrize("odd", [{"data": "x.txt"}, {"train": "10m"}])
def test_a_setting_where_a_table_should_be_is_one_clear_line(
    text_file: Path, tmp_path: Path, odd: dict[str, str]
) -> None:
    with pytest.raises(SteepestError, match="is a table of settings"):
        api.train(text_file, steps=1, runs=tmp_path / "runs", config=odd)
