"""What is particular to the runs of one objective, and nothing else.

A kind knows four things: how its examples are prepared and found again, how its objective is put on a trunk,
what it keeps in the run folder beside the weights, and what is said at the end. The loop, the session, the
deadline, checkpoints, resuming and rewinding are the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from steepest.data.examples import AnyBatch, Examples
from steepest.model import Transformer
from steepest.objectives import Objective
from steepest.runs import RunFolder
from steepest.train.run import Listener, RunConfig


class Kind(ABC):
    """What is particular to the runs of one objective. Each class is final.

    Attributes:
        most_epochs: after which a kind with a probe of its own ends before its time; no limit if ``None``.
        own_probe: the speed of a size is measured by the objective's own step, not by next-token prediction.
        ladder: whether its loss is one that scaling laws foretell.
        most_matrix_parameters: of a model whose size is chosen by the time; no limit if ``None``.
    """

    own_probe: ClassVar[bool] = False
    most_epochs: ClassVar[int | None] = None
    ladder: ClassVar[bool] = True
    most_matrix_parameters: ClassVar[int | None] = None

    @property
    def training_texts(self) -> Sequence[str]:
        """Texts that a task learns from, for next-token training before it; none where that makes no sense."""
        return ()

    @classmethod
    @abstractmethod
    def prepare(cls, config: RunConfig, cache: Path, listen: Listener) -> tuple[Self, RunConfig, Examples]:
        """Read the data a config names; what only the data can tell (labels, columns) goes into the config."""

    @classmethod
    @abstractmethod
    def open(cls, folder: RunFolder, config: RunConfig) -> Self:
        """The kind of a run that exists, from its folder, without its data."""

    def choose(
        self, config: RunConfig, examples: Examples, *, started: float, listen: Listener
    ) -> tuple[RunConfig, dict[str, Any]] | None:
        """Resolve every choice the user left open, and a record of how; ``None`` leaves it to ``planning/``."""
        return None

    @abstractmethod
    def examples(self, folder: RunFolder, config: RunConfig, cache: Path, listen: Listener) -> Examples:
        """The data of a run that exists; data that has changed since is a ``DataError``."""

    @abstractmethod
    def batches_of(
        self, sources: Sequence[str], config: RunConfig, cache: Path, listen: Listener
    ) -> Iterable[AnyBatch]:
        """All of some other data, as batches to be judged on."""

    @abstractmethod
    def shape(self, config: RunConfig) -> dict[str, Any]:
        """What the data alone fixes of the trunk's config, at least ``vocab_size`` and ``context``."""

    @abstractmethod
    def objective(self, config: RunConfig, trunk: Transformer) -> Objective:
        """Put the objective on a trunk."""

    @abstractmethod
    def save(self, folder: RunFolder) -> None:
        """Write what the run needs besides config and weights into its folder."""

    def write(
        self,
        objective: Objective,
        config: RunConfig,
        tokens: int,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> str:
        """A text of so many tokens, written by the model; nothing, if it writes none. The mode is put back."""
        return ""

    def seconds_to_conclude(self, config: RunConfig) -> float:
        """How long ``conclude`` takes, more or less, for a budget in time to leave room."""
        return 0.0

    def conclude(
        self, objective: Objective, examples: Examples, config: RunConfig, out_of_time: Callable[[], bool]
    ) -> dict[str, Any]:
        """What else belongs into ``result.json``: a sample, a baseline, a calibration."""
        return {}
