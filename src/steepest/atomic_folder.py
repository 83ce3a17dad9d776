"""A folder that appears under its name whole or not at all, whenever the process or the machine dies.

    1. make a hidden sibling ``.NAME-PID-RANDOM`` and lock it     3. sync the sibling
    2. the caller writes and syncs files into it                  4. rename it to NAME, sync the parent

A folder that is there already is replaced: on Linux the two change places in one step (``renameat2``).
A killed process leaves its hidden sibling behind; the kernel has then let go of the lock, so the next writer
knows that it is dead (process numbers would not tell: in a container everybody is number 7) and removes it.

Source of the order: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steepest.errors import StorageError

_HIDDEN = re.compile(r"\..+-\d+-[0-9a-f]{8}")  # being written, or being removed


@contextmanager
def atomic_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """Give a hidden folder to write into; when the block ends without error it becomes ``path``.

    ``needed`` is how many bytes will be written: if the disk has fewer, nothing is begun. Any ``OSError``
    becomes a ``StorageError`` of one line; what was there before stays, and nothing half-written does. The
    caller syncs the files it writes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "result"
    >>> with atomic_folder(path) as folder:
    ...     _ = (folder / "a.txt").write_text("whole")
    ...     path.exists()
    False
    >>> [file.name for file in path.iterdir()]
    ['a.txt']
    """
    temporary = _hidden_sibling(path)
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        disk = shutil.disk_usage(path.parent)
        if disk.total and needed > disk.free:  # some network file systems report no sizes at all
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        lock = _try_lock(temporary)
        yield temporary
        _sync(temporary)
        _put_in_place(temporary, path)
        _sync(path.parent)
    except OSError as error:
        _remove(temporary)
        raise StorageError(_explain(error, path, needed)) from error
    finally:
        _remove(temporary)  # after an exchange, what was replaced
        if lock is not None:
            os.close(lock)


def remove_folder(path: Path) -> None:
    """Remove a folder; it goes out of sight in one step first, so that it is never seen half removed."""
    hidden = _hidden_sibling(path)
    try:
        path.rename(hidden)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror}") from error
    _remove(hidden)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that died here were writing; what a living one is writing stays."""
    for path in folder.iterdir():
        if _HIDDEN.fullmatch(path.name) and (lock := _try_lock(path)) is not None:
            _remove(path)
            os.close(lock)


def _put_in_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; what is there changes places with it, in one step where the system can."""
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):  # not Linux, or a network file system: two steps
        aside = _hidden_sibling(path)
        path.rename(aside)
        new.rename(path)
        _remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places atomically (Linux ``renameat2``); False where that cannot be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and not renameat2(
        here, os.fsencode(first), here, os.fsencode(second), exchange
    )


def _hidden_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _try_lock(path: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed; None if another has it or it cannot be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()  # a file that stood where the checkpoint belongs


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: Path, needed: int) -> str:
    """One line for the user: what could not be written, why, what to do."""
    reason = (error.strerror or str(error)).lower()
    space = "free some space or keep fewer checkpoints"
    remedy = {errno.ENOSPC: space, errno.EDQUOT: space, errno.EFBIG: "raise the file size limit (ulimit -f)"}
    if error.errno in remedy:
        free = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free
        return (
            f"cannot write {path}: {reason}; it needs {needed:,} bytes and {free:,} are free: "
            f"{remedy[error.errno]}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {path}: {reason}; choose a folder you can write to"
    return f"cannot write {path}: {reason}"
