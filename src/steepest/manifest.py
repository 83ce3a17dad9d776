"""The manifest of a checkpoint folder: what it must hold, byte for byte, and how to find out that it does not.

    {"format": 1, "step": 400,
     "files": {"model.safetensors": {"size": 1200, "sha256": "..."}, ..., "state.json": {...}},
     "seal": SHA-256 of the canonical JSON of all the above}

Files are hashed while they are written and again while they are read; what a reader gets are the very bytes
that were verified, read into memory (a memory map would turn a file truncated later into a crash). Only the
files named here are ever opened. ``format`` and the seal rule stay the same in every future format, so an
older program can tell "written by a newer version" from "damaged".
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steepest.errors import CheckpointError, StorageError

FORMAT = 1  # of the checkpoint folder; a newer one is refused by name
MANIFEST = "manifest.json"

_CHUNK = 1 << 23
_NAME = re.compile(r"[a-z][a-z0-9_-]*\.(safetensors|json)")


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing, truncated or changed; ``reason`` says which and how."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; use an earlier checkpoint")
        self.reason = reason


class NewerError(CheckpointError):
    """A whole checkpoint that a newer version of steepest wrote."""


def write_file(path: Path, data: memoryview) -> dict[str, Any]:
    """Write a new file through to the disk and return its entry for the manifest.

    Hashing and writing go chunk by chunk and release the interpreter lock.
    """
    digest = hashlib.sha256()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            digest.update(chunk)
            while chunk:
                chunk = chunk[os.write(file, chunk) :]
        os.fsync(file)
    finally:
        os.close(file)
    return {"size": len(data), "sha256": digest.hexdigest()}


def write_manifest(folder: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the sealed manifest; the last file of a checkpoint."""
    manifest = {"format": FORMAT, "step": step, "files": dict(files)}
    text = json.dumps({**manifest, "seal": seal(manifest)}, indent=1)
    write_file(folder / MANIFEST, memoryview(text.encode()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check its seal, its format, and that the folder has the name of its step."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint")
    data = _read(folder, MANIFEST, None, keep=True)
    try:
        manifest = json.loads(data.numpy().tobytes())
        claimed = manifest.pop("seal", None)
        whole = claimed == seal(manifest)
        newer = isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DamagedError(folder, f"{MANIFEST} is not a manifest") from None
    if newer:
        message = (
            f"{folder}: written by a newer version (checkpoint format {manifest['format']}, this version reads "
            f"up to {FORMAT}); upgrade steepest"
        )
        raise NewerError(message) if whole else DamagedError(folder, message.partition(": ")[2])
    if not whole:
        raise DamagedError(folder, f"{MANIFEST} was changed after it was written: its seal does not match")
    if folder.name.startswith("step-") and folder.name != step_name(manifest["step"]):
        raise DamagedError(folder, f"it holds step {manifest['step']}: the folder was renamed")
    return {
        "step": manifest["step"],
        "files": {n: e for n, e in manifest["files"].items() if _NAME.fullmatch(n)},
    }


def verify_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Check the size and SHA-256 of one file; memory for one chunk."""
    _read(folder, name, entry, keep=False)


def read_file(folder: Path, name: str, entry: Mapping[str, Any]) -> Tensor:
    """Read one file into a ``uint8`` tensor, checking size and SHA-256 on the way."""
    return _read(folder, name, entry, keep=True)


def step_name(step: int) -> str:
    """The folder name of a step.

    >>> step_name(400)
    'step-000400'
    """
    return f"step-{step:06d}"


def seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(folder: Path, name: str, entry: Mapping[str, Any] | None, keep: bool) -> Tensor:
    """Read a file, whole (``keep``) or through a window; checked against ``entry`` unless that is None."""
    path = folder / name
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a planted pipe must not hang us
    except FileNotFoundError:
        raise DamagedError(folder, f"{name} is missing") from None
    except PermissionError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; change its permissions") from None
    except OSError as error:
        raise DamagedError(folder, f"{name} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedError(folder, f"{name} is not a plain file")
        size = found.st_size if entry is None else entry["size"]
        if found.st_size != size or size == 0:
            raise DamagedError(folder, f"{name} {_size_problem(found.st_size, size)}")
        data = torch.empty(size if keep else min(size, _CHUNK), dtype=torch.uint8)
        window = data.numpy().data
        digest = hashlib.sha256()
        done = 0
        while done < size:
            chunk = window[done : done + _CHUNK] if keep else window[: size - done]
            count = os.readv(file, [chunk])
            if count == 0:
                raise DamagedError(folder, f"{name} {_size_problem(done, size)}")
            digest.update(chunk[:count])
            done += count
    except OSError as error:
        raise DamagedError(folder, f"{name} cannot be read: {error.strerror}") from None
    finally:
        os.close(file)
    if entry is not None and digest.hexdigest() != entry["sha256"]:
        raise DamagedError(folder, f"{name} was changed after it was written: its SHA-256 does not match")
    return data


def _size_problem(found: int, expected: int) -> str:
    if found == 0:
        return "is empty"
    if found < expected:
        return f"is truncated: {found:,} of {expected:,} bytes"
    return f"is too long: {found:,} bytes, expected {expected:,}"
