"""Checkpoints: save, verify, load, choose and prune; atomic, checksummed, without pickle.

    checkpoints/step-000400/model.safetensors        one file per group of tensors
                           /optimizer.safetensors
                           /state.json               everything that is not a tensor
                           /manifest.json            format, step, size and SHA-256 of each file, and its own seal

A checkpoint appears under its name in one step, whole, whenever the process or the machine dies
(``atomic_folder.py``). Loading opens the files that the manifest names and no others, verifies each, and parses
only JSON and safetensors: nothing in a folder is ever executed. ``CheckpointWriter`` does all of it in a
background thread, but for the copy of the tensors.

Knows state dicts, never classes. ``manifest.py`` says what is whole; ``state_dicts.py`` makes the bytes.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from steepest.atomic_folder import atomic_folder, remove_folder
from steepest.errors import CheckpointError, ConfigError
from steepest.manifest import (
    FORMAT,
    MANIFEST,
    DamagedError,
    read_file,
    read_manifest,
    step_name,
    verify_file,
    write_file,
    write_manifest,
)
from steepest.state_dicts import (
    bytes_size,
    from_json,
    join_optimizer_state,
    random_state,
    set_random_state,
    split_optimizer_state,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
)

__all__ = [
    "FORMAT",
    "CheckpointWriter",
    "Tensors",
    "join_optimizer_state",
    "list_checkpoints",
    "load_checkpoint",
    "newest_whole",
    "prune",
    "random_state",
    "save_checkpoint",
    "set_random_state",
    "split_optimizer_state",
    "verify_checkpoint",
]

Tensors = Mapping[str, Mapping[str, Tensor]]

_FOLDER = re.compile(r"step-(\d{6,})")
_GROUP = re.compile(r"[a-z][a-z0-9_-]*")


def save_checkpoint(folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any]) -> Path:
    """Write ``folder/step-NNNNNN`` and return its path; a checkpoint of that step is replaced.

    ``tensors`` is ``{"model": {...}, "optimizer": {...}}``, one file each, of any device, dtype or stride;
    ``state`` is anything ``state_dicts.to_json`` takes. A ``StorageError`` (no space, no permission) leaves
    what was there before as it was.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> path = save_checkpoint(folder, 400, {"model": {"weight": torch.ones(2)}}, {"loss": 0.1})
    >>> path.name, sorted(file.name for file in path.iterdir())
    ('step-000400', ['manifest.json', 'model.safetensors', 'state.json'])
    >>> load_checkpoint(path)
    ({'model': {'weight': tensor([1., 1.])}}, {'loss': 0.1})
    """
    return _write(folder, step, _stage(tensors, state, {}))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Verify a checkpoint and return its tensors (on the CPU) and its state, exactly as they were saved.

    A ``CheckpointError`` names the file and what is wrong with it. What is loaded are the very bytes that
    were verified.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, entry in read_manifest(path)["files"].items():
        data = read_file(path, name, entry)
        try:
            if name == "state.json":
                state = from_json(json.loads(data.numpy().tobytes()))
            else:
                groups[name.removesuffix(".safetensors")] = tensors_from_bytes(data)
        except (CheckpointError, ValueError, TypeError, RecursionError) as error:
            raise DamagedError(path, f"{name} cannot be read: {error}") from None
    return groups, state


def verify_checkpoint(path: Path) -> list[str]:
    """Check the manifest, and the size and SHA-256 of every file; raise ``CheckpointError`` if any is wrong.

    Returns the names in the folder that do not belong to the checkpoint; they are never opened.
    """
    files = read_manifest(path)["files"]
    for name, entry in files.items():
        verify_file(path, name, entry)
    return sorted(file.name for file in path.iterdir() if file.name not in {*files, MANIFEST})


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a folder as (step, path), oldest first, whole or not; none if there is no folder."""
    if not folder.is_dir():
        return []
    found = ((_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def newest_whole(folder: Path, before: int | None = None) -> tuple[Path, list[str]]:
    """The newest checkpoint that verifies (of a step below ``before``, if given), and what was noticed.

    The second value has one line for each newer checkpoint that was passed over because it is damaged, and
    one for each file in the chosen one that does not belong to it (such files are never opened). If none is
    whole, or the newest was written by a newer version, a ``CheckpointError`` says so.
    """
    notes: list[str] = []
    for step, path in reversed(list_checkpoints(folder)):
        if before is not None and step >= before:
            continue
        try:
            foreign = verify_checkpoint(path)
        except DamagedError as error:
            notes.append(f"passed over {path.name}: {error.reason}")
            continue
        notes += [f"{path.name}: {name} does not belong to it and was not opened" for name in foreign]
        return path, notes
    below = "" if before is None else f" before step {before}"
    found = f" ({'; '.join(notes)})" if notes else ""
    raise CheckpointError(f"{folder}: no whole checkpoint{below} to continue from{found}")


def prune(folder: Path, keep: int, protect: Collection[int] = ()) -> list[int]:
    """Remove all but the newest ``keep`` checkpoints and the steps in ``protect``; return the removed steps.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (1, 2, 3, 4):
    ...     _ = save_checkpoint(folder, step, {}, {})
    >>> prune(folder, keep=1, protect={2})
    [1, 3]
    """
    if keep < 1:
        raise ConfigError(f"keep at least 1 checkpoint; got {keep}")
    removed = [(step, path) for step, path in list_checkpoints(folder)[:-keep] if step not in protect]
    for _, path in removed:
        remove_folder(path)
    return [step for step, _ in removed]


class CheckpointWriter:
    """Writes checkpoints in a background thread, at most one at a time.

    ``save`` waits for the write before, copies the tensors into buffers that are kept from save to save, and
    returns; training may change the tensors at once. A write that failed raises at the next ``save``,
    ``wait`` or ``close``. A write in flight at the end of the program is finished.
    ``after`` is called in the thread with the path of every finished checkpoint, for example to prune.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> weight = torch.zeros(2)
    >>> with CheckpointWriter(folder, after=lambda path: prune(folder, keep=2)) as writer:
    ...     for step in range(5):
    ...         writer.save(step, {"model": {"weight": weight}}, {})
    ...         _ = weight.add_(1)
    >>> [(step, load_checkpoint(path)[0]["model"]["weight"][0].item()) for step, path in list_checkpoints(folder)]
    [(3, 3.0), (4, 4.0)]
    """

    def __init__(self, folder: Path, after: Callable[[Path], object] | None = None) -> None:
        self.folder = folder
        self._after = after
        self._buffers: dict[str, Tensor] = {}
        self._pending: Future[Path | None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def prepare(self, tensors: Tensors) -> None:
        """Allocate the buffers for tensors of these sizes in the background, so the first save is fast too."""
        self.wait()
        sizes = {f"{group}.safetensors": bytes_size(named) for group, named in tensors.items()}
        self._pending = self._thread.submit(self._allocate, sizes)

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Copy, and write in the background; see the class."""
        self.wait()
        self._pending = self._thread.submit(self._run, step, _stage(tensors, state, self._buffers))

    def wait(self) -> Path | None:
        """Wait for the write in flight and return its path; None if there was none. Raises if it failed."""
        if self._pending is None:
            return None
        try:
            return self._pending.result()
        finally:
            if self._pending.done():  # not when interrupted while waiting
                self._pending = None

    def close(self) -> None:
        """Wait for the write in flight, raise if it failed, and release thread and buffers."""
        try:
            self.wait()
        finally:
            self._thread.shutdown(wait=True)
            self._buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what ended the block is the news; this goes with it

    def _allocate(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            if name not in self._buffers or self._buffers[name].numel() < size:
                # By NumPy: a parallel operation of torch would leave a second team of OpenMP's threads behind, more than
                # there are cores, and OpenMP then puts threads to sleep between operations: every step 1.5 times as long.
                self._buffers[name] = torch.from_numpy(np.full(size, 0, np.uint8))

    def _run(self, step: int, files: Mapping[str, memoryview]) -> Path:
        path = _write(self.folder, step, files)
        if self._after is not None:
            self._after(path)
        return path


def _stage(tensors: Tensors, state: Mapping[str, Any], buffers: dict[str, Tensor]) -> dict[str, memoryview]:
    """Copy everything into the bytes of the files to be; ``buffers`` are used and kept for the next time."""
    files: dict[str, memoryview] = {}
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise CheckpointError(f'a group of tensors is named like "model" or "optimizer"; got "{group}"')
        name = f"{group}.safetensors"
        file = tensors_to_bytes(named, buffers.get(name))
        if name not in buffers or buffers[name].numel() < file.numel():
            buffers[name] = file
        files[name] = file.numpy().data
    files["state.json"] = memoryview(json.dumps(to_json(dict(state)), indent=1, allow_nan=False).encode())
    return files


def _write(folder: Path, step: int, files: Mapping[str, memoryview]) -> Path:
    path = folder / step_name(step)
    with atomic_folder(path, sum(len(data) for data in files.values())) as temporary:
        entries = {name: write_file(temporary / name, data) for name, data in files.items()}
        write_manifest(temporary, step, entries)
    return path
