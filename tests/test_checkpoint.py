"""Checkpoints: whole or not there, damage found and named, nothing foreign opened, training not held up."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

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


def group(value: float) -> dict[str, dict[str, torch.Tensor]]:
    weight = torch.full((16,), value)
    return {"model": {"weight": weight}, "optimizer": {"step": weight[0], "moment": weight.bfloat16()}}


def value_of(path: Path) -> float:
    """Load a checkpoint made of ``group`` and check that all its parts are of the same save."""
    tensors, state = load_checkpoint(path)
    (value,) = {tensor.reshape(-1)[0].item() for named in tensors.values() for tensor in named.values()}
    assert state["value"] == value
    return float(value)


def save(folder: Path, step: int, value: float | None = None) -> Path:
    value = float(step) if value is None else value
    return save_checkpoint(folder, step, group(value), {"value": value})


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


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


# --- damage ------------------------------------------------------------------------------------------------

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "is missing"),
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "truncated": (lambda file: os.truncate(file, file.stat().st_size - 1), "truncated|not a manifest"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"\n "), "too long|changed"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "not a plain file"),
    "a pipe": (lambda file: (file.unlink(), os.mkfifo(file)), "not a plain file"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_an_older_checkpoint_used(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    spoil, reason = DAMAGE[damage]
    spoil(path / name)
    if (name, damage) == ("manifest.json", "longer"):
        return  # white space after JSON says nothing
    for check in (load_checkpoint, verify_checkpoint):
        with pytest.raises(CheckpointError, match=f"step-000002: {name} .*({reason})") as caught:
            check(path)
        assert "\n" not in str(caught.value)
    chosen, (note,) = newest_whole(tmp_path)
    assert value_of(chosen) == 1.0
    assert note.startswith(f"passed over step-000002: {name} ")


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """Every byte of every file (header, data, JSON, manifest), one bit each; seven more bits on a few."""
    path = save(tmp_path, 2)
    for name in FILES:
        file = path / name
        whole = file.read_bytes()
        for place in range(len(whole)):
            for bit in range(8) if place % 97 == 0 else [place % 8]:
                changed = bytearray(whole)
                changed[place] ^= 1 << bit
                file.write_bytes(changed)
                try:
                    load_checkpoint(path)
                except CheckpointError as error:
                    assert name in str(error) or "renamed" in str(error) or "upgrade" in str(error)
                else:  # a line break for a space, between two values of the manifest
                    assert name == "manifest.json" and changed.split() == whole.split(), (name, place, bit)
                    assert value_of(path) == 2.0
        file.write_bytes(whole)
    assert value_of(path) == 2.0


def test_files_of_another_checkpoint_are_found(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    shutil.copy(first / "optimizer.safetensors", second / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors was changed"):
        load_checkpoint(second)
    shutil.copytree(first, tmp_path / "step-000003")
    with pytest.raises(CheckpointError, match="it holds step 1: the folder was renamed"):
        load_checkpoint(tmp_path / "step-000003")
    chosen, notes = newest_whole(tmp_path)
    assert chosen == first and len(notes) == 2
    shutil.copytree(first, tmp_path / "elsewhere")
    assert value_of(tmp_path / "elsewhere") == 1.0


def test_an_edited_manifest_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    text = (path / "manifest.json").read_text()
    edited = json.loads(text)
    edited["files"].pop("optimizer.safetensors")
    for content in (
        json.dumps(edited),
        text.replace('"step": 1', '"step": 2'),
        "[]",
        "null",
        "{",
        '"x"',
        "[" * 5000,
        "\xff",
    ):
        (path / "manifest.json").write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"manifest\.json (was changed|is not a manifest)"):
            load_checkpoint(path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    edited = json.loads((path / "manifest.json").read_text()) | {"format": 2, "new": True}
    del edited["seal"]
    sealed = {**edited, "seal": manifest.seal(edited)}
    (path / "manifest.json").write_text(json.dumps(sealed))
    for look in (load_checkpoint, verify_checkpoint, lambda path: newest_whole(path.parent)):
        with pytest.raises(CheckpointError, match=r"format 2, this version reads up to 1.*upgrade steepest"):
            look(path)
    (path / "manifest.json").write_text(json.dumps({**sealed, "seal": "0"}))  # not what a newer one wrote
    with pytest.raises(CheckpointError, match="upgrade steepest"):
        load_checkpoint(path)
    assert newest_whole(tmp_path)[0].name == "step-000001"


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "step-000001")
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"no whole checkpoint .*\(passed over step-000001: state.json is"
    ):
        newest_whole(tmp_path)


opened: list[str] | None = None


def listen(event: str, arguments: Any) -> None:
    if opened is not None and event in ("open", "pickle.find_class", "exec", "marshal.loads"):
        opened.append(f"{event} {arguments[0]}")


sys.addaudithook(listen)


@pytest.fixture
def audit() -> Iterator[list[str]]:
    global opened
    opened = events = []
    yield events
    opened = None


class Bomb:
    def __reduce__(self) -> Any:
        return os.abort, ()


def test_a_planted_pickle_is_never_opened(tmp_path: Path, audit: list[str]) -> None:
    path = save(tmp_path, 1)
    for name in ("evil.pt", "state.pkl", "pytorch_model.bin", "__init__.py"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
    audit.clear()
    chosen, notes = newest_whole(tmp_path)
    assert value_of(chosen) == 1.0
    assert notes[1] == "step-000001: evil.pt does not belong to it and was not opened" and len(notes) == 4
    (path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(path)
    assert audit and {Path(event).name for event in audit} <= set(FILES)


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


# --- death, in processes of their own ----------------------------------------------------------------------


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).parent / "checkpoint_deaths.py"
    folder = tmp_path_factory.mktemp("deaths")
    return {**run(sys.executable, str(script), str(folder)), "folder": folder}


@pytest.mark.parametrize("scene", ["new step", "same step", "same step, no exchange"])
def test_killed_at_any_system_call(deaths: dict[str, Any], scene: str) -> None:
    assert deaths[scene]["kills"] > 30
    assert deaths[scene]["problems"] == []


def test_killed_at_random_moments(deaths: dict[str, Any]) -> None:
    assert deaths["random"]["kills"] == 20
    assert deaths["random"]["problems"] == []


def test_a_living_writer_keeps_its_folder(deaths: dict[str, Any]) -> None:
    assert deaths["living"] == "kept"


def test_the_write_in_flight_at_exit_is_finished(deaths: dict[str, Any]) -> None:
    assert value_of(deaths["folder"] / "exit" / "step-000001") == 1.0
    assert hidden(deaths["folder"] / "exit") == []


def test_a_file_size_limit_is_one_line(deaths: dict[str, Any]) -> None:
    assert "file too large; it needs" in deaths["limit"]["error"]
    assert deaths["limit"]["left"] == ["step-000001"]


def test_a_folder_without_permission_is_one_line(deaths: dict[str, Any]) -> None:
    if deaths["permission"] is None:
        pytest.skip("cannot become another user")
    assert "permission denied; choose a folder you can write to" in deaths["permission"]


def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one of 2 MB, where the system lets us mount it."""
    script = Path(__file__).parent / "checkpoint_deaths.py"
    mount = f'mount -t tmpfs -o size=2m none "{tmp_path}"'
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("mounting is not permitted")
    found = run(
        "unshare", "-rm", "sh", "-c", f'{mount} && exec "{sys.executable}" "{script}" "{tmp_path}" full'
    )
    assert "no space left on device; it needs" in found["error"]
    assert "no space left on device; it needs" in found["while writing"]
    assert found["left"] == ["step-000001"] and found["value"] == 1.0
