"""A run folder read as it is: whole, half-written, or broken. Nothing here raises for what a file holds.

Every value is asked for by its kind (``number``, ``table``, ``text``), so that a string where a number should be,
or a file that ends in the middle, is the same as a value that is not there. What could not be read is told.
"""

import json
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steepest.runs import RunFolder

Table = dict[str, Any]

LARGE = 8_000_000  # bytes of a file, above which not every line is read
STEPS_KEPT = 21_000  # lines at even distances
RARE = {
    rb'"gradient_flow"': 1_000,
    rb'"evaluation"': 1_000,
    rb'"sample"': 100,
    rb'"verdict": "(?!ok")': 10_000,
}


@dataclass
class RunRecord:
    """Everything a report shows of one run.

    Attributes:
        steps: lines of logged optimiser steps.
        evaluations: lines that hold ``evaluation``, held-out metrics.
        others: lines that are neither, such as gradient flow, memory and samples.
        problems: what is missing or could not be read, in words.
    """

    name: str
    path: Path
    config: Table = field(default_factory=dict)
    config_text: str = ""
    plan: Table = field(default_factory=dict)
    result: Table = field(default_factory=dict)
    score: Table = field(default_factory=dict)
    steps: list[Table] = field(default_factory=list)
    evaluations: list[Table] = field(default_factory=list)
    others: list[Table] = field(default_factory=list)
    events: list[Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.result)

    @property
    def last(self) -> Table:
        """The last thing known of the run's progress."""
        return self.result or (self.steps[-1] if self.steps else {})


def read_run(folder: RunFolder) -> RunRecord:
    """Read what there is."""
    run = RunRecord(folder.name, folder.path)
    run.config_text = _read_text(folder.config, run.problems)
    try:
        run.config = tomllib.loads(run.config_text)
    except tomllib.TOMLDecodeError as error:
        run.problems.append(f"run.toml is not valid TOML: {error}")
    run.plan = _read_table(folder.plan, run.problems)
    run.result = _read_table(folder.result, run.problems, expected=False)
    run.score = _read_table(folder.path / "score.json", run.problems, expected=False)
    for record in _read_lines(folder.metrics, run.problems):
        if isinstance(record.get("evaluation"), dict):
            run.evaluations.append(record)
        elif number(record.get("loss")) is not None or "grad_norm" in record:
            run.steps.append(record)
        else:
            run.others.append(record)
    run.events = _read_lines(folder.events, run.problems, expected=False)
    return run


def number(value: Any) -> float | None:
    """A finite number, or nothing.

    >>> number(3), number("3"), number(float("nan")), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def table(value: Any) -> Table:
    """A table, or an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """A string, or an empty one."""
    return value if isinstance(value, str) else ""


def numbers(value: Any) -> dict[str, float]:
    """The entries of a table that are numbers."""
    found = {str(key): number(one) for key, one in table(value).items()}
    return {key: one for key, one in found.items() if one is not None}


def curve(records: list[Table], x: str, *y: str) -> list[tuple[float, float]]:
    """Pairs of a record's ``x`` and of what lies at the path ``y``, where both are numbers.

    >>> curve([{"step": 1, "evaluation": {"loss": 2.0}}, {"step": 2}], "step", "evaluation", "loss")
    [(1.0, 2.0)]
    """
    found = []
    for record in records:
        value: Any = record
        for key in y:
            value = table(value).get(key)
        a, b = number(record.get(x)), number(value)
        if a is not None and b is not None:
            found.append((a, b))
    return found


def _read_bytes(path: Path, problems: list[str], *, expected: bool = True) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if expected:
            problems.append(f"{path.name} is not there")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    return b""


def _read_text(path: Path, problems: list[str], *, expected: bool = True) -> str:
    content = _read_bytes(path, problems, expected=expected)
    return content.decode("utf-8", errors="replace").replace("\r\n", "\n")


def _read_table(path: Path, problems: list[str], *, expected: bool = True) -> Table:
    content = _read_text(path, problems, expected=expected)
    if not content.strip():
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is broken: {error}")
        return {}
    return table(value)


def _read_lines(path: Path, problems: list[str], *, expected: bool = True) -> list[Table]:
    """Tables of a JSON-lines file; a kind of line of which there are very many is thinned."""
    found, broken = [], 0
    for line in _picked(_read_bytes(path, problems, expected=expected)):
        try:
            value = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            broken += bool(line.strip())
            continue
        if isinstance(value, dict):
            found.append(value)
    if broken:
        problems.append(f"{path.name}: {broken} broken line{'s' * (broken > 1)} passed over")
    return found


def _picked(content: bytes) -> list[bytes]:
    """The lines; of a file of very many the rare kinds, evenly thinned, and steps at even distances.

    Which lines are rare is found by their words without splitting the file, so a million lines take a second.
    """
    if len(content) < LARGE:
        return content.splitlines()
    at = [len(content) - 1, *range(0, len(content), max(1, len(content) // STEPS_KEPT))]
    for kind, most in RARE.items():
        hits = [match.start() for match in re.finditer(kind, content)]
        at += hits[:: max(1, len(hits) // most)]
    starts = sorted({content.rfind(b"\n", 0, place) + 1 for place in at})
    ends = (content.find(b"\n", start) for start in starts)
    return [
        content[start : end if end >= 0 else len(content)] for start, end in zip(starts, ends, strict=True)
    ]
