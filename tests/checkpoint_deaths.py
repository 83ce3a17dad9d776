"""Run by test_checkpoint_survival.py in a process of its own: kills writers, limits them, prints what is left.

One process imports torch once and forks a child for every death. The checkpoints it makes are made of one
number, so that a mixture of two is seen at once.
"""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from steepest import atomic_folder, checkpoint, manifest
from steepest.checkpoint import (
    CheckpointWriter,
    list_checkpoints,
    load_checkpoint,
    newest_whole,
    prune,
    save_checkpoint,
)
from steepest.errors import SteepestError

CALLS = [
    *((os, name) for name in ("mkdir", "open", "write", "fsync", "close", "rename", "unlink", "rmdir")),
    (fcntl, "flock"),
    (atomic_folder, "_exchange"),
]


def group(value: float, size: int = 16) -> dict[str, dict[str, torch.Tensor]]:
    weight = torch.full((size,), value)
    return {"model": {"weight": weight}, "optimizer": {"step": weight[0], "moment": weight.bfloat16()}}


def save(folder: Path, step: int, value: float | None = None, size: int = 16) -> Path:
    value = float(step) if value is None else value
    return save_checkpoint(folder, step, group(value, size), {"value": value})


def value_of(path: Path) -> float:
    """Load a checkpoint that ``save`` made, and check that all its parts are of the same save."""
    tensors, state = load_checkpoint(path)
    flat = [tensor.reshape(-1).tolist() for named in tensors.values() for tensor in named.values()]
    (value,) = {item for items in flat for item in items}
    assert state["value"] == value
    return float(value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hidden(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.startswith(".")]


def in_child(work: Callable[[], object]) -> int:
    """Fork, run ``work``, and return the child's wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def die_before(call: int) -> None:
    """From now on, kill this process with SIGKILL just before its ``call``-th call to the system."""
    left = [call]

    def watched(real: Any) -> Any:
        def function(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **options)

        return function

    for module, name in CALLS:
        setattr(module, name, watched(getattr(module, name)))


def write_and_die(folder: Path, step: int, exchange: bool, call: int) -> None:
    if not exchange:
        atomic_folder._exchange = lambda first, second: False
    die_before(call)
    save(folder, step, 3.0)


def killed_at_every_call(folder: Path, step: int, exchange: bool = True) -> dict[str, Any]:
    """Step 1 (value 1) and step 2 (value 2) are there; a write of ``step`` (value 3) is killed."""
    problems = []
    manifest._CHUNK = 200
    begun = folder.with_name("begun")
    shutil.rmtree(begun, ignore_errors=True)
    save(begun, 1, 1.0)
    save(begun, 2, 2.0)
    for call in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(begun, folder)

        status = in_child(partial(write_and_die, folder, step, exchange, call))
        path, notes = newest_whole(folder)
        value = value_of(path)
        two_steps = step == 2 and not exchange
        if notes or value not in ((2.0, 3.0, 1.0) if two_steps else (2.0, 3.0)):
            problems.append([call, value, notes])
        if any(value_of(path) != step for step, path in list_checkpoints(folder)[:1]):
            problems.append([call, "the oldest is hurt"])
        save(folder, 9, 9.0)
        if value_of(newest_whole(folder)[0]) != 9.0 or hidden(folder):
            problems.append([call, "cannot go on", names(folder)])
        if status == 0:
            return {"kills": call, "problems": problems}
        if not os.WIFSIGNALED(status):
            problems.append([call, f"status {status}"])
    return {"kills": call, "problems": [*problems, "never finished"]}


def killed_at_random(folder: Path) -> dict[str, Any]:
    problems, dice = [], random.Random(1)
    manifest._CHUNK = 1 << 16
    save(folder, 0, 0.0)
    for kill in range(20):
        last = list_checkpoints(folder)[-1][0]
        child = os.fork()
        if child == 0:
            writer = CheckpointWriter(folder, after=lambda path: prune(folder, keep=2))
            for step in range(last + 1, last + 10_000):
                weight = torch.full((50_000,), float(step))
                writer.save(step, {"model": {"weight": weight}, "optimizer": {}}, {"value": float(step)})
            os._exit(1)
        time.sleep(dice.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        path, notes = newest_whole(folder)
        if notes or value_of(path) != list_checkpoints(folder)[-1][0] or value_of(path) < last:
            problems.append([kill, notes, names(folder)])
    last = list_checkpoints(folder)[-1][0]
    save(folder, last + 1, last + 1.0)
    if hidden(folder):
        problems.append("leftovers stay")
    return {"kills": 20, "problems": problems if last > 5 else [*problems, f"only {last} written"]}


def living(folder: Path) -> str:
    """While one process writes, another saves: the first one's hidden folder is not a leftover."""
    with atomic_folder.atomic_folder(folder / "step-000001") as mine:
        in_child(lambda: save(folder, 2, 2.0))
        return "kept" if mine.is_dir() and value_of(folder / "step-000002") == 2.0 else "removed"


def exit_while_writing(folder: Path) -> None:
    """The program ends without closing its writer, while the disk takes its time."""
    real = manifest.write_file

    def slow(path: Path, data: memoryview) -> dict[str, Any]:
        time.sleep(0.2)
        return real(path, data)

    checkpoint.write_file = slow
    CheckpointWriter(folder).save(1, {"model": {"weight": torch.ones(3)}, "optimizer": {}}, {"value": 1.0})
    assert list_checkpoints(folder) == []


def said_by_child(work: Callable[[], object], note: Path) -> str:
    """Run ``work`` in a child and return the error it ends with."""

    def guarded() -> None:
        descriptor = os.open(note, os.O_WRONLY | os.O_CREAT)
        try:
            work()
        except SteepestError as error:
            os.write(descriptor, str(error).encode())

    in_child(guarded)
    return note.read_text()


def limited(folder: Path, note: Path) -> dict[str, Any]:
    save(folder, 1, 1.0)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        save(folder, 2, 2.0, size=5000)

    return {"error": said_by_child(work, note), "left": names(folder)}


def forbidden(folder: Path, note: Path) -> str | None:
    folder.mkdir(mode=0o555)

    def work() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        save(folder, 1, 1.0)

    if os.getuid() == 0:
        reachable = in_child(lambda: (os.setuid(65534), names(folder)))
        if reachable != 0:
            for parent in folder.parents:  # the test's own temporary folders are closed to others
                if parent.name.startswith("pytest-") or parent.name.startswith("deaths"):
                    parent.chmod(0o755)
            if in_child(lambda: (os.setuid(65534), names(folder))) != 0:
                return None
    return said_by_child(work, note)


def full(folder: Path) -> dict[str, Any]:
    """The file system has 2 MB."""
    save(folder, 1, 1.0)
    found: dict[str, Any] = {}
    for key in ("error", "while writing"):
        try:
            save(folder, 2, 2.0, size=1_000_000)
        except SteepestError as error:
            found[key] = str(error)
        plenty = shutil.disk_usage(folder)._replace(free=1 << 40)
        shutil.disk_usage = partial(lambda plenty, path: plenty, plenty)  # another process takes it meanwhile
    return {**found, "left": names(folder), "value": value_of(folder / "step-000001")}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    if sys.argv[2:] == ["full"]:
        print(json.dumps(full(folder)))
        return
    os.fsync = lambda descriptor: None  # slow, and of no matter to SIGKILL: the page cache lives on
    found = {
        "new step": killed_at_every_call(folder / "new", 3),
        "same step": killed_at_every_call(folder / "same", 2),
        "same step, no exchange": killed_at_every_call(folder / "two", 2, exchange=False),
        "random": killed_at_random(folder / "random"),
        "living": living(folder / "living"),
        "limit": limited(folder / "limit", folder / "limit.txt"),
        "permission": forbidden(folder / "forbidden", folder / "forbidden.txt"),
    }
    print(json.dumps(found))
    exit_while_writing(folder / "exit")


if __name__ == "__main__":
    main()
