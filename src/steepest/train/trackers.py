"""Trackers people already watch their runs in: TensorBoard, Weights & Biases, trackio. The default is none of them.

``metrics.jsonl`` is always written and is the truth; a tracker gets a copy of the same figures. A tracker is whatever
has ``log`` and ``close``. It must never cost the run: one that fails, at the start or in the middle, is left out from
then on, and an event says so. Without an account or a network Weights & Biases writes to the run folder
(``wandb sync`` sends it later); trackio keeps its own local database.
"""

import importlib.util
import math
import netrc
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from steepest.errors import ConfigError
from steepest.runs import RunFolder

TrackerName = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "steepest"


class Tracker(Protocol):
    """Where figures go."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one line of metrics; steps may come again after a resume or a rewind."""

    def close(self) -> None:
        """Write what is buffered; nothing comes after this."""


class Trackers:
    """All trackers of a session as one that cannot fail.

    Args:
        event: called with an event's name and fields when a tracker is left out.
    """

    def __init__(
        self,
        names: Iterable[TrackerName],
        folder: RunFolder,
        config: Mapping[str, Any],
        step: int,
        event: Callable[..., None],
    ) -> None:
        self._event = event
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._begin, name, folder, config, step))

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass on the figures of a line of metrics."""
        if self._open:
            step, figures = int(record.get("step", 0)), flatten(record)
            for name, tracker in list(self._open.items()):
                self._try(name, partial(tracker.log, step, figures))

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open = {}

    def _begin(self, name: str, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        self._open[name] = _OPEN[name](folder, config, step)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a foreign library raises: the run goes on
            self._open.pop(name, None)
            self._event("tracker failed", tracker=name, reason=f"{type(error).__name__}: {error}")


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Refuse a tracker whose package is not there, before anything is written."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracker {name} is asked for, but its package is not installed: pip install {name}, "
                f"or all of them: pip install -e '.[track]'"
            )


def flatten(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics, nested ones by their path; steps count as training.

    >>> flatten({"step": 3, "loss": 2.5, "verdict": "ok"})
    {'train/loss': 2.5}
    >>> flatten({"step": 3, "evaluation": {"loss": 2.6}, "flow": {"gradient": [0.1, None]}})
    {'held_out/loss': 2.6, 'flow/gradient/1': 0.1}
    """
    figures: dict[str, float] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                visit(f"{path}/{key}", inner)
        elif isinstance(value, list):
            for i, inner in enumerate(value, start=1):
                visit(f"{path}/{i}", inner)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            figures[path] = float(value)

    nested = any(isinstance(value, Mapping) for value in record.values())
    for key, value in record.items():
        if isinstance(value, Mapping):
            visit("held_out" if key == "evaluation" else key, value)
        elif key != "step" and not nested:  # tokens and seconds are logged with the step's own line
            visit(f"train/{key}", value)
    return figures


class _TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir runs``."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a lost session wrote beyond this step is hidden.
        self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1 if step else None)
        if not step and folder.config.exists():
            text = folder.config.read_text(encoding="utf-8")
            self._writer.add_text("run.toml", "    " + text.replace("\n", "\n    "), 0)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One scalar a figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project "steepest"; the step is a figure, so that a resumed run may go back."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if _has_account() else "offline")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, id=_identity(folder), resume="allow",
            dir=str(folder.path), config=dict(config), mode=mode,
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One row."""
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class _Trackio:
    """A run of the local project "steepest": ``trackio show``."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        import trackio

        self._trackio: Any = trackio
        trackio.init(project=PROJECT, name=folder.name, config=dict(config), resume="allow")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One row."""
        self._trackio.log(dict(figures), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._trackio.finish()


def _identity(folder: RunFolder) -> str:
    """The same for every session of one folder, another for another folder of the same name."""
    key = f"{folder.path.absolute()} {folder.path.stat().st_ino}"
    return f"{folder.name}-{zlib.crc32(key.encode()):08x}"


def _has_account() -> bool:
    """Whether Weights & Biases could be reached without asking the user for a key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(str(Path.home() / ".netrc")).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False


_OPEN: dict[str, Callable[[RunFolder, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "trackio": _Trackio,
}
