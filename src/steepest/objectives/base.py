"""What every objective is: a trunk, a head, a loss to descend and a target metric to be judged by.

The loss is only a proxy for what one wants. So an objective names both: ``loss`` gives the number whose
gradient is followed; ``metric`` names the figure that picks the best checkpoint and heads the report.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steepest.config import RoomConfig
from steepest.data.examples import AnyBatch
from steepest.model import Transformer


class KindConfig(RoomConfig):
    """Base of the objectives' configurations, which are told apart by ``kind``."""

    kind: str

    def model_post_init(self, context: Any) -> None:
        """Count ``kind`` as set, so that a copy by ``replace`` is of the same kind."""
        self.__pydantic_fields_set__.add("kind")


class Objective(nn.Module):
    """Abstract base: a trunk with a head, a loss and metrics.

    Sums rather than means are returned, so that micro-batches, ranks and evaluation windows of unequal
    length add up exactly; whoever adds them divides once.

    Attributes:
        metric: the target metric's name, a key of what ``metrics`` returns.
        lower_is_better: whether a smaller target metric is a better one.
    """

    metric: str
    lower_is_better: bool

    trunk: Transformer

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Sum of the loss over the batch's counted targets (a scalar, in nats)."""

    @abstractmethod
    def measure(self, batch: Any) -> Any:
        """What ``metrics`` needs of one held-out batch, without gradients: sums, or predictions beside truths."""

    @abstractmethod
    def metrics(self, parts: Sequence[Any]) -> dict[str, float]:
        """Named metrics, from what ``measure`` gave for every held-out batch."""

    def interval(self, parts: Sequence[Any]) -> dict[str, float]:
        """The target metric's 95% bootstrap interval, as "..._low" and "..._high"; nothing where it has none."""
        return {}

    @abstractmethod
    def roles(self) -> dict[str, str]:
        """Role of every parameter by name: "embedding", "head", "matrix" or "vector"."""

    def accumulate_gradient(
        self, batch: AnyBatch, *, micro_batch: int, autocast: torch.dtype | None = None
    ) -> Tensor:
        """Add the gradient of the mean loss over the whole batch to ``.grad``; return that mean.

            g = (1 / n) sum over micro-batches of d(loss sum)/dw,     n = counted targets of the whole batch

        Args:
            micro_batch: rows whose activations are held at once.
            autocast: dtype of the matrix products; none: float32.
        """
        total = torch.zeros((), dtype=torch.float64, device=batch.ids_BT.device)
        for part in batch.split(micro_batch):
            with torch.autocast(batch.ids_BT.device.type, dtype=autocast, enabled=autocast is not None):
                loss = self.loss(part) / max(batch.n_targets, 1)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def splits(self) -> dict[str, tuple[int, ...]]:
        """Matrices that hold several stacked ones, with their row counts (Muon treats each part by itself)."""
        return {f"trunk.{name}": rows for name, rows in self.trunk.splits().items()}

    def warnings(self, metrics: dict[str, float]) -> list[str]:
        """What an evaluation shows to be wrong, in words; each is said once."""
        return []

    def better(self, new: float, old: float | None) -> bool:
        """Whether ``new`` beats ``old`` in the target metric (anything beats nothing, and nan never wins)."""
        if old is None or old != old:
            return new == new
        return new < old if self.lower_is_better else new > old
