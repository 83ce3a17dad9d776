"""Checkpoints survive: damage is found and named, nothing foreign is opened, a kill at any moment does no harm."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint_deaths import hidden, save, value_of
from steepest import manifest
from steepest.checkpoint import load_checkpoint, newest_whole, verify_checkpoint
from steepest.errors import CheckpointError

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
