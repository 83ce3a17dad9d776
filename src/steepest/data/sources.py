"""Where documents come from: files, directories, globs, standard input, hub data sets, Python's own texts.

    corpus.txt  notes.md  rows.jsonl.zst  table.csv  part-0.parquet     by the end of the name, else plain text
    papers/  "src/**/*.py"                                              recursive, in sorted order
    -                                                                   standard input, as one text
    hf:NAME[:CONFIG[:SPLIT]]                                            see ``hub``
    python-docs  python-stdlib                                          see ``builtin``

What is named outright must be readable text. What is merely found in a directory or by a glob and is not
text is passed over and counted. ``find_sources`` looks only at names and sizes, so that a wrong name is
refused before anything is read or written.
"""

import glob
import hashlib
import os
import stat
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from steepest.config import RoomConfig, nearest
from steepest.data.builtin import BUILTIN, python_docs, python_docs_identity, python_stdlib_files
from steepest.data.formats import (
    BLOCK,
    READERS,
    Document,
    NoColumnError,
    NotTextError,
    checked_blocks,
    format_of,
    text_blocks,
)
from steepest.data.hub import HubName, hub_documents, revision_of
from steepest.errors import DataError

STANDARD_INPUT = "standard input"


class DataConfig(RoomConfig):
    """What to train on, and how much of it to hold out."""

    sources: list[str] = Field(
        ["python-docs"],
        min_length=1,
        description='files, directories, globs, "-" (standard input), hf:NAME, python-docs, python-stdlib',
    )
    text_column: str = Field("text", description="where JSON lines, CSV, Parquet and hub rows hold the text")
    validation: float = Field(0.05, ge=0, lt=1, description="share of the text that is held out, by bytes")
    split: Literal["auto", "hash", "position"] = Field(
        "auto",
        description="hold out whole documents by a hash of their content, or the end of each; "
        "auto: by hash where that comes near the wanted share",
    )


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, standard input, a hub data set or a built-in text.

    Attributes:
        label: what messages call it.
        kind: ``text``, ``jsonl``, ``csv``, ``parquet``, ``stream``, ``hub`` or ``python-docs``.
        member: found in a directory or by a glob, not named outright.
        version: the commit of a hub data set; the hash of a stored stream.
    """

    label: str
    kind: str
    path: Path = Path()
    member: bool = False
    hub: HubName | None = None
    version: str | None = None

    @property
    def size(self) -> int:
        """Bytes on disk, where that is known before reading."""
        return self.path.stat().st_size if self.kind in READERS else 0

    def identity(self) -> list[Any]:
        """What decides its content without reading it: path, size and time of change; a hub revision."""
        if self.kind == "python-docs":
            return python_docs_identity()
        if self.hub is not None:
            files = sorted(p for p in self.path.rglob("*") if p.is_file()) if self.version is None else []
            hub = self.hub
            return ["hub", hub.name, hub.config, hub.split, self.version, *map(_file_identity, files)]
        return ["stream", self.version] if self.version else [self.kind, *_file_identity(self.path)]


def read_documents(config: DataConfig, cache: Path | None = None) -> Iterator[str]:
    """All documents of the configured sources in order, as strings; nothing is dropped but what is not text.

    Args:
        config: the sources.
        cache: where hub revisions are remembered; see ``default_cache``.

    >>> next(read_documents(DataConfig(sources=["python-docs"]))).splitlines()[0]
    'The "assert" statement'
    """
    sources, skipped = find_sources(config, cache or default_cache())
    for document in iterate_documents(sources, config.text_column, skipped):
        yield b"".join(document).decode()


def default_cache() -> Path:
    """The cache folder: ``$STEEPEST_CACHE``, or ``$XDG_CACHE_HOME/steepest``, or ``~/.cache/steepest``."""
    if chosen := os.environ.get("STEEPEST_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "steepest"


def find_sources(config: DataConfig, cache: Path) -> tuple[list[Source], Counter[str]]:
    """Resolve the configured names; returns what to read, and how many files were passed over and why.

    Raises:
        DataError: a name that does not exist, is empty, or may not be read.
    """
    skipped: Counter[str] = Counter()
    found: list[Source] = []
    for name in config.sources:
        found += _find(name, cache, skipped)
    if sum(source.label == STANDARD_INPUT for source in found) > 1:
        raise DataError('standard input "-" can be read only once; name it once')
    return found, skipped


def iterate_documents(sources: Iterable[Source], column: str, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of resolved sources. Each must be consumed before the next; ``skipped`` is counted up."""
    for source in sources:
        if source.kind == "python-docs":
            yield from python_docs()
        elif source.hub is not None:
            yield from hub_documents(source.hub, source.version, column)
        elif source.kind == "stream":
            yield checked_blocks(_stream_blocks(source), source.label)
        elif source.member and (reason := _unfit(source, column)):
            skipped[reason] += 1
        else:
            yield from READERS[source.kind](source.path, column, source.label)


def said(skipped: Counter[str]) -> str:
    """The passed-over files, as the end of a message.

    >>> said(Counter(binary=3, hidden=0))
    ' (passed over: 3 binary)'
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count)
    return f" (passed over: {reasons})" if reasons else ""


@contextmanager
def stored_stream(source: Source, folder: Path) -> Iterator[Source]:
    """Copy a stream to a file in a folder, so that it has a size and a hash; other sources stay as they are.

    The file has no name, so it is gone with the process, however that ends.
    """
    if source.kind != "stream":
        yield source
        return
    digest = hashlib.sha256()
    with tempfile.TemporaryFile(dir=folder) as file:
        for block in _stream_blocks(source):
            digest.update(block)
            file.write(block)
        file.flush()
        if file.tell() == 0:
            raise DataError(f"{source.label} is empty; give some text")
        file.seek(0)
        path = Path(f"/dev/fd/{file.fileno()}")
        yield replace(source, kind="text", path=path, version=digest.hexdigest())


def _stream_blocks(source: Source) -> Iterator[bytes]:
    if source.label != STANDARD_INPUT:
        with source.path.open("rb") as pipe:
            yield from iter(lambda: pipe.read(BLOCK), b"")
    elif sys.stdin is None:
        raise DataError('standard input "-" is closed; give a file')
    else:
        yield from iter(lambda: sys.stdin.buffer.read(BLOCK), b"")


def _find(name: str, cache: Path, skipped: Counter[str]) -> list[Source]:
    if name == "-":
        return [Source(STANDARD_INPUT, "stream")]
    if name == "python-docs":
        return [Source(name, name)]
    if name == "python-stdlib":
        return [Source(str(path), "text", path, member=True) for path in python_stdlib_files()]
    if name.startswith("hf:"):
        hub = HubName.parse(name)
        if hub.is_local:
            return [Source(name, "hub", Path(hub.name).expanduser(), hub=hub)]
        return [Source(name, "hub", hub=hub, version=revision_of(hub, cache))]
    path = Path(name).expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if glob.has_magic(name):
            return _find_matching(name, skipped)
        raise _missing(name, path) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    if stat.S_ISDIR(mode):
        return _find_inside(path, name, skipped)
    if not os.access(path, os.R_OK):
        raise DataError(f"{name}: no permission to read it; allow it with: chmod +r {name}")
    if not stat.S_ISREG(mode):
        return [Source(name, "stream", path)]
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; give a file with some text")
    return [Source(name, format_of(path), path)]


def _find_matching(pattern: str, skipped: Counter[str]) -> list[Source]:
    """Everything a glob matches."""
    found: list[Source] = []
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 (absolute patterns)
    for match in sorted(matches):
        path = Path(match)
        if path.is_file():
            found += _members([path], skipped)
        elif path.is_dir() and "**" not in pattern:
            found += _find_inside(path, match, skipped)
    if not found:
        raise DataError(f"{pattern}: no readable file matches this pattern{said(skipped)}")
    return found


def _find_inside(folder: Path, name: str, skipped: Counter[str]) -> list[Source]:
    """All files below a directory, in sorted order, but for hidden ones and the folders of runs."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{name}: no permission to read this directory")
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        if "run.toml" in names and "checkpoints" in folders:  # what was trained here is not data
            skipped["run folder"] += 1
            folders.clear()
            continue
        visible = [each for each in folders if not each.startswith(".")]
        skipped["hidden"] += len(folders) - len(visible) + sum(each.startswith(".") for each in names)
        folders[:] = visible
        files += [Path(place, each) for each in names if not each.startswith(".")]
    found = _members(sorted(files, key=lambda path: path.relative_to(folder).parts), skipped)
    if not found:
        raise DataError(f"{name}: no readable file in this directory{said(skipped)}")
    return found


def _members(files: Iterable[Path], skipped: Counter[str]) -> list[Source]:
    found = []
    for path in files:
        if not path.is_file() or not os.access(path, os.R_OK):
            skipped["unreadable"] += 1
        elif path.stat().st_size > 0:
            found.append(Source(str(path), format_of(path), path, member=True))
    return found


def _unfit(source: Source, column: str) -> str:
    """Why a file found in a directory is not read, or an empty string."""
    try:
        if source.kind == "text":
            deque(text_blocks(source.path, source.label), maxlen=0)
        else:
            next(READERS[source.kind](source.path, column, source.label), None)
    except NotTextError as error:
        return error.reason
    except NoColumnError:
        return f'without column "{column}"'
    return ""


def _missing(name: str, path: Path) -> DataError:
    """The error of a path that does not exist, with the nearest name beside it."""
    here = path
    while not here.parent.is_dir():
        here = here.parent
    try:
        names = [each.name for each in here.parent.iterdir()]
    except OSError:
        names = []
    if here == path and path.parent == Path():
        names += BUILTIN
    guess = nearest(here.name, names)
    part = "" if here == path else f' (there is no "{here}")'
    return DataError(f"{name}: no such file or directory{part}{guess}")


def _file_identity(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
