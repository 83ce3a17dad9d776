"""A run that is killed again and again: the driver behind ``test_survival.py``.

    python tests/survival.py TEXT FOLDER KILLS

Trains one run undisturbed and the same run with SIGKILLs at random moments, every second one in the middle of
writing a checkpoint, resuming after each. Children are forked after the imports, so that a death costs little.
"""

import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steepest import api
from steepest.checkpoint import list_checkpoints
from steepest.runs import RunFolder

STEPS = 60
CONFIG = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 1, "width": 32, "context": 32},
    "batches": {"batch_tokens": 256},
    "optim": {"lr": 1e-2},
    "train": {"threads": 1, "checkpoint_every": 4, "keep": 2, "evaluations": 3, "sample_tokens": 0},
}


def fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def wait_for_temporary(folder: Path, child: int) -> None:
    """Return while a checkpoint is being written (its temporary folder is there), or when the child is done."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if folder.is_dir() and any(not path.name.startswith("step-") for path in folder.iterdir()):
            return
        time.sleep(0.0005)


def what_counts(run: Path) -> tuple[list[tuple[float, ...]], bytes]:
    """Every step's loss and gradient norm, and the final weights."""
    folder = RunFolder(run)
    steps = [(r["step"], r["loss"], r["grad_norm"]) for r in folder.read_metrics() if "loss" in r]
    return steps, (list_checkpoints(folder.checkpoints)[-1][1] / "model.safetensors").read_bytes()


def main() -> None:
    text, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    runs, dice = folder / "runs", random.Random(0)

    def begin(name: str) -> Callable[[], object]:
        return lambda: api.train(
            text, steps=STEPS, name=name, runs=runs, cache=folder / "cache", config=CONFIG
        )

    def whole() -> None:
        begin("whole")()
        (folder / "modules").write_text("\n".join(sys.modules))

    assert os.waitpid(fork(whole), 0)[1] == 0
    for name in (
        (folder / "modules").read_text().split("\n")
    ):  # what it imported on its way: children find it there
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    shutil.rmtree(runs / "whole")
    began = time.monotonic()
    assert os.waitpid(fork(begin("whole")), 0)[1] == 0
    seconds = time.monotonic() - began
    killed = in_checkpoint = finished = 0
    while True:
        run = runs / "killed"
        if (run / "checkpoints").is_dir() and any((run / "checkpoints").glob("step-*")):
            child = fork(lambda: api.resume("killed", runs=runs, cache=folder / "cache"))
        else:
            shutil.rmtree(run, ignore_errors=True)
            child = fork(begin("killed"))
        if killed < kills:
            if killed % 2:
                time.sleep(dice.uniform(0, 0.2) * seconds)
                wait_for_temporary(run / "checkpoints", child)
                in_checkpoint += 1
            else:
                time.sleep(dice.uniform(0.05, 0.4) * seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        assert status == 0, status
        assert what_counts(run) == what_counts(runs / "whole")
        finished += 1
        if killed >= kills:
            break
        shutil.rmtree(run)  # it was faster than the deaths: the next one dies the rest of them
    print(f"killed {killed} in_checkpoint {in_checkpoint} finished {finished}")


if __name__ == "__main__":
    main()
