"""The run folder: plain files that hold everything a run is.

    runs/NAME/run.toml            the resolved config, enough to repeat the run
             /tokenizer.json      Hugging Face tokenizers format
             /plan.json           what was decided before training, and why
             /metrics.jsonl       one JSON line per logged step or evaluation
             /events.jsonl        resumed, rewound, spike skipped, horizon fixed ...
             /checkpoints/        see ``checkpoint.py``
             /history/            what a rewind abandoned, kept
             /result.json         what was reached
             /score.json          what was predicted beside what was reached

Lines are appended whole and flushed, so that a killed run leaves at most one broken last line, which
reading passes over. A lock (``flock``, released by the kernel when the process dies) keeps two
processes from training into one folder.
"""

import fcntl
import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steepest.errors import RunError, StorageError

FORMAT = 1  # version of the run folder; a newer one is refused by name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunFolder:
    """The files of one run; holds a path and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    name = property(lambda self: self.path.name, doc="The run's name: the folder's.")
    config = property(lambda self: self.path / "run.toml", doc="The resolved config.")
    tokenizer = property(lambda self: self.path / "tokenizer.json", doc="The tokenizer.")
    plan = property(lambda self: self.path / "plan.json", doc="What was decided before training.")
    metrics = property(
        lambda self: self.path / "metrics.jsonl", doc="One line per logged step or evaluation."
    )
    events = property(lambda self: self.path / "events.jsonl", doc="One line per event.")
    checkpoints = property(lambda self: self.path / "checkpoints", doc="The checkpoints.")
    history = property(lambda self: self.path / "history", doc="What rewinds abandoned.")
    result = property(lambda self: self.path / "result.json", doc="What was reached.")
    score = property(lambda self: self.path / "score.json", doc="What was predicted beside what was reached.")

    def append_metrics(self, *records: dict[str, Any]) -> None:
        """Append lines to ``metrics.jsonl``."""
        append_lines(self.metrics, *records)

    def append_event(self, kind: str, /, **fields: Any) -> None:
        """Append one line to ``events.jsonl``, with the time of day."""
        append_lines(self.events, {"event": kind, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields})

    def read_plan(self) -> dict[str, Any]:
        """What was decided before training.

        Raises:
            RunError: the file is gone or damaged.
        """
        try:
            plan = json.loads(self.plan.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            plan = None
        if not isinstance(plan, dict):
            raise RunError(f"{self.plan} is gone or damaged; without it this run cannot go on")
        return plan

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``."""
        return list(read_lines(self.metrics))

    def read_events(self) -> list[dict[str, Any]]:
        """All whole lines of ``events.jsonl``."""
        return list(read_lines(self.events))

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file atomically."""
        write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drop the metric lines after ``step`` (they will be made again); return the dropped ones."""
        kept: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        for record in self.read_metrics():
            (kept if record.get("step", 0) <= step else dropped).append(record)
        write_atomically(self.metrics, "".join(_line(record) for record in kept))
        return dropped

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; ``RunError`` if another one trains into it."""
        try:
            handle = (self.path / ".lock").open("a+")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot write here: {error.strerror}") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"run {self.name} is being trained by another process; wait for it or stop it"
                ) from None
            yield


def create_run(root: Path, name: str | None) -> RunFolder:
    """Make a fresh run folder; without a name the next free ``run-001``, ``run-002`` ... is taken."""
    if name is not None:
        check_new_name(root, name)
        candidates: Iterator[str] = iter([name])
    else:
        candidates = (f"run-{number:03d}" for number in range(1, 100_000))
    for candidate in candidates:
        path = root / candidate
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if name is not None:
                raise RunError(_taken(path)) from None
            continue
        except OSError as error:
            raise StorageError(f"{path}: cannot make the run folder: {error.strerror}") from None
        (path / "checkpoints").mkdir()
        return RunFolder(path)
    raise RunError(f"{root}: no free run number")


def check_new_name(root: Path, name: str) -> None:
    """Refuse a name that is taken or cannot be a folder name, before any work is done."""
    if not _NAME.fullmatch(name):
        raise RunError(
            f'a run name has letters, digits, ".", "_" and "-" and starts with a letter or digit; got "{name}"'
        )
    if (root / name).exists():
        raise RunError(_taken(root / name))


def open_run(run: str | Path, root: Path) -> RunFolder:
    """Open a run by path or by name under ``root``; refuse one made by a newer version."""
    for path in (Path(run), root / run):
        if (path / "run.toml").is_file():
            _check_format(path)
            return RunFolder(path)
    known = [folder.name for folder in list_runs(root)]
    listed = f"; known runs: {', '.join(known[:8])}" if known else f"; there are no runs under {root}"
    raise RunError(f'no run "{run}"{listed}')


def find_run(run: str | Path, root: Path) -> RunFolder:
    """Like ``open_run``, but takes any folder that holds a run's files, however broken: to look, not to train."""
    for path in (Path(run), root / run):
        if path.is_dir() and any(
            (path / name).exists() for name in ("run.toml", "metrics.jsonl", "plan.json")
        ):
            return RunFolder(path)
    return open_run(run, root)


def latest_run(root: Path) -> RunFolder:
    """The run changed last under ``root``."""
    runs = list_runs(root)
    if not runs:
        raise RunError(f"there are no runs under {root}; make one with: steepest train --time 3m")
    return max(runs, key=lambda run: run.path.stat().st_mtime_ns)


def list_runs(root: Path) -> list[RunFolder]:
    """All run folders under ``root``, by name."""
    return [RunFolder(path.parent) for path in sorted(root.glob("*/run.toml"))]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole JSON objects of a JSON-lines file; a broken line (a killed writer's last) is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot write: {error.strerror}") from None


def remove_run(run: RunFolder) -> None:
    """Delete a run folder that was made by this process and holds nothing yet worth keeping."""
    shutil.rmtree(run.path, ignore_errors=True)


def append_lines(path: Path, *records: dict[str, Any]) -> None:
    """Append records to a JSON-lines file, each as a whole line."""
    try:
        with path.open("ab") as file:
            if file.tell() and not _ends_with_newline(path):
                file.write(b"\n")  # a killed writer's broken line must not swallow this one
            file.write("".join(map(_line, records)).encode())
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write: {error.strerror}; free some space, then resume the run"
        ) from None


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _taken(path: Path) -> str:
    return (
        f'run name "{path.name}" is taken ({path}); choose another with --name, '
        f"or go on with it: steepest resume {path.name}"
    )


def _check_format(path: Path) -> None:
    match = re.search(
        r"^format\s*=\s*(\d+)",
        (path / "run.toml").read_text(encoding="utf-8", errors="replace"),
        re.MULTILINE,
    )
    if match is None:
        raise RunError(f"{path}/run.toml has no format line; it was not written by steepest")
    if int(match[1]) > FORMAT:
        raise RunError(
            f"{path} was made by a newer steepest (run format {match[1]}, this one reads up to {FORMAT}); upgrade steepest"
        )


def summarize_run(run: RunFolder) -> dict[str, Any]:
    """One row of the table of runs, from the files alone; a half-written run gives what it has."""
    try:
        config = tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        config = {}
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        result = {}
    last: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for record in read_lines(run.metrics):
        last = record
        evaluation = record.get("evaluation", evaluation)
    model = config.get("model", {})
    return {
        "run": run.name,
        "state": "finished" if result else "unfinished",
        "data": config.get("data", {}).get("sources", []),
        "depth": model.get("depth", 0),
        "width": model.get("width", 0),
        "step": result.get("step", last.get("step", 0)),
        "tokens": result.get("tokens", last.get("tokens", 0)),
        "seconds": result.get("seconds", last.get("seconds", 0.0)),
        **result.get("held_out", evaluation),
    }
