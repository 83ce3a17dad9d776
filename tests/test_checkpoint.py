"""Checkpoints: what is saved is loaded, the disk may say no, training is not held up."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_deaths import group, hidden, save, value_of
from steepest import atomic_folder, manifest
from steepest.checkpoint import (
    CheckpointWriter,
    list_checkpoints,
    load_checkpoint,
    newest_whole,
    prune,
    save_checkpoint,
    verify_checkpoint,
)
from steepest.errors import CheckpointError, ConfigError, StorageError

STATE = {"loop": {"best": float("inf"), "losses": [0.1, 1e-300], "seen": 2**60}, "betas": (0.9, 0.95)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new" / "folder", 400, group(1.5), STATE)
    assert path == tmp_path / "new" / "folder" / "step-000400"
    tensors, state = load_checkpoint(path)
    assert repr(state) == repr(STATE)
    assert torch.equal(tensors["model"]["weight"], torch.full((16,), 1.5))
    assert tensors["optimizer"]["step"].shape == () and tensors["optimizer"]["moment"].dtype == torch.bfloat16
    assert verify_checkpoint(path) == []
    assert hidden(path.parent) == []


def test_a_checkpoint_loads_in_the_library_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert torch.equal(load_file(save(tmp_path, 3) / "model.safetensors")["weight"], torch.full((16,), 3.0))


def test_list_newest_before(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []
    for step in (900, 1_000_000, 1000):
        save(tmp_path, step)
    (tmp_path / "step-000007").write_text("a file")
    (tmp_path / "step-5").mkdir()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [900, 1000, 1_000_000]
    assert newest_whole(tmp_path) == (tmp_path / "step-1000000", [])
    assert newest_whole(tmp_path, before=1000)[0].name == "step-000900"
    with pytest.raises(CheckpointError, match="no whole checkpoint before step 900"):
        newest_whole(tmp_path, before=900)


@pytest.mark.parametrize("exchange", [True, False])
def test_saving_a_step_again_replaces_it(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic_folder, "_exchange", lambda first, second: False)
    save(tmp_path, 1, 1.0)
    path = save(tmp_path, 1, 2.0)
    assert value_of(path) == 2.0
    assert list_checkpoints(tmp_path) == [(1, path)] and hidden(tmp_path) == []


def test_a_file_in_the_place_of_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "step-000001").write_text("a file")
    assert value_of(save(tmp_path, 1)) == 1.0 and hidden(tmp_path) == []


def test_prune_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    assert prune(tmp_path, keep=2, protect=[1, 3, 99]) == [2, 4]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 3, 5, 6]
    assert prune(tmp_path, keep=9) == [] and hidden(tmp_path) == []
    with pytest.raises(ConfigError, match="got 0"):
        prune(tmp_path, keep=0)


def test_every_file_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of each file and of its folder, then the rename, then fsync of the parent."""
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def name(descriptor: int) -> str:
        found = Path(f"/proc/self/fd/{descriptor}").readlink()
        return "temporary" if found.name.startswith(".step") else found.name

    monkeypatch.setattr(os, "fsync", lambda file: (events.append(name(file)), sync(file))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    save(tmp_path, 1)
    files = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    assert events == [*files, "temporary", "rename", tmp_path.name]


# --- the disk says no --------------------------------------------------------------------------------------


def test_no_space_at_any_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, 7.0)
    monkeypatch.setattr(manifest, "_CHUNK", 100)
    write, fsync, rename = os.write, os.fsync, os.rename
    for function, real in (("write", write), ("fsync", fsync), ("rename", rename)):
        for fail_at in range(100):
            calls = iter(range(1000))

            def fail(*arguments: Any, calls: Any = calls, at: int = fail_at, real: Any = real) -> Any:
                if next(calls) == at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(os, function, fail)
                try:
                    save(tmp_path, 3, 3.0)
                    break
                except StorageError as error:
                    said = str(error)
            assert "step-000003: no space left on device; it needs" in said and "are free" in said
            assert hidden(tmp_path) == []
            assert value_of(newest_whole(tmp_path)[0]) in ((3.0, 7.0) if function == "fsync" else (7.0,))
        assert 1 <= fail_at < 99
        shutil.rmtree(tmp_path / "step-000003")


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_900, 100))
    monkeypatch.setattr(manifest, "write_file", None)
    with pytest.raises(StorageError, match=r"it needs [\d,]+ bytes and 100 are free: free some space"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match=f"cannot write .*step-000001: {os.strerror(code).lower()}"):
        save(tmp_path, 1)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save(tmp_path / "checkpoints", 1)


def test_unreadable_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back to an older checkpoint would hide what a chmod can mend."""
    path, real = save(tmp_path, 1), os.open

    def refuse(file: Any, *arguments: Any) -> int:
        if Path(file).name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(file, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"model\.safetensors: cannot be read: Permission denied"):
        newest_whole(path.parent)


# --- the background writer ---------------------------------------------------------------------------------


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every write waits until the event is set."""
    free, real = threading.Event(), manifest.write_file

    def wait_and_write(path: Path, data: memoryview) -> dict[str, Any]:
        assert free.wait(20)
        return real(path, data)

    monkeypatch.setattr("steepest.checkpoint.write_file", wait_and_write)
    return free


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, slow_disk: threading.Event) -> None:
    tensors, state = group(1.0), {"value": 1.0}
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, tensors, state)
        tensors["model"]["weight"].fill_(9.0)  # the optimiser steps while the disk is busy
        tensors["optimizer"]["moment"].fill_(9.0)
        state["value"] = 9.0
        assert list_checkpoints(tmp_path) == []
        slow_disk.set()
        assert writer.wait() == tmp_path / "step-000001"
        assert writer.wait() is None
    assert value_of(tmp_path / "step-000001") == 1.0


def test_at_most_one_write_is_in_flight(tmp_path: Path, slow_disk: threading.Event) -> None:
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, group(1.0), {"value": 1.0})
        second = threading.Thread(target=writer.save, args=(2, group(2.0), {"value": 2.0}))
        second.start()
        second.join(0.1)
        assert second.is_alive() and list_checkpoints(tmp_path) == []
        slow_disk.set()
        second.join()
        assert value_of(tmp_path / "step-000001") == 1.0
    assert value_of(tmp_path / "step-000002") == 2.0


def test_buffers_are_kept_from_save_to_save(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path) as writer:
        writer.prepare(group(0.0))
        writer.wait()
        places = {name: buffer.data_ptr() for name, buffer in writer._buffers.items()}
        for step in range(3):
            writer.save(step, group(float(step)), {"value": float(step)})
            writer.wait()
        assert {name: buffer.data_ptr() for name, buffer in writer._buffers.items()} == places
    assert [value_of(path) for _, path in list_checkpoints(tmp_path)] == [0.0, 1.0, 2.0]


def test_a_failed_write_is_raised_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer = CheckpointWriter(tmp_path)
        writer.save(1, group(1.0), {"value": 1.0})
        with pytest.raises(StorageError, match="step-000001"):
            writer.save(2, group(2.0), {"value": 2.0})
        writer.save(3, group(3.0), {"value": 3.0})
        with pytest.raises(StorageError, match="step-000003"):
            writer.close()
        with pytest.raises(ZeroDivisionError) as caught, CheckpointWriter(tmp_path) as writer:
            writer.save(4, group(4.0), {"value": 4.0})
            raise ZeroDivisionError
        assert "step-000004" in caught.value.__notes__[0]
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_what_comes_after_runs_once_the_checkpoint_is_there(tmp_path: Path) -> None:
    done: list[float] = []
    with CheckpointWriter(tmp_path, after=lambda path: done.append(value_of(path))) as writer:
        for step in range(3):
            writer.save(step, group(float(step)), {"value": float(step)})
    assert done == [0.0, 1.0, 2.0]


def test_bad_names_and_states_are_refused_at_once(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path) as writer:
        with pytest.raises(CheckpointError, match=r'got "\.\./evil"'):
            writer.save(1, {"../evil": {}}, {})
        with pytest.raises(CheckpointError, match=r"state\.x is a torch\.Tensor"):
            writer.save(1, {}, {"x": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted under /proc")
def test_the_writer_leaves_no_team_of_threads_behind() -> None:
    """With more of OpenMP's threads than cores, OpenMP puts them to sleep between operations, and training is 1.5 times as slow."""
    script = (
        "import os, sys, tempfile, torch\n"
        "from pathlib import Path\n"
        "from steepest.checkpoint import CheckpointWriter\n"
        "torch.set_num_threads(2)\n"
        "weight = torch.zeros(2**22)\n"  # large enough for a parallel operation
        "weight.add_(1)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "with CheckpointWriter(Path(tempfile.mkdtemp())) as writer:\n"
        "    for step in range(2):\n"
        "        writer.prepare({'model': {'weight': weight}})\n"
        "        writer.save(step, {'model': {'weight': weight}}, {})\n"
        "        writer.wait()\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1  # the writer itself
