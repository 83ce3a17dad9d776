"""What every objective is: a trunk, a head, a loss to descend and a target metric to be judged by.

The loss is only a proxy for what one wants. So an objective names both: ``loss`` gives the number whose
gradient is followed; ``metric`` names the figure that picks the best checkpoint and heads the report.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from steepest.data.batches import Batch
from steepest.model import Transformer


class Objective(nn.Module):
    """Abstract base: a trunk with a head, a loss and metrics.

    Sums rather than means are returned, so that micro-batches, ranks and evaluation windows of unequal
    length add up exactly; whoever adds them divides once.
    """

    metric: ClassVar[str]  # the target metric's name, a key of what ``metrics`` returns
    lower_is_better: ClassVar[bool]

    trunk: Transformer

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's counted targets (a scalar, in nats)."""

    @abstractmethod
    def measure(self, batch: Batch) -> dict[str, float]:
        """Sums from which ``metrics`` are made, without gradients; the sums of batches may be added."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Turn added-up sums into named metrics."""

    @abstractmethod
    def roles(self) -> dict[str, str]:
        """Role of every parameter by name: "embedding", "head", "matrix" or "vector"."""

    def splits(self) -> dict[str, tuple[int, ...]]:
        """Matrices that hold several stacked ones, with their row counts (Muon treats each part by itself)."""
        return {f"trunk.{name}": rows for name, rows in self.trunk.splits().items()}

    def better(self, new: float, old: float | None) -> bool:
        """Whether ``new`` beats ``old`` in the target metric (anything beats nothing, and nan never wins)."""
        if old is None or old != old:
            return new == new
        return new < old if self.lower_is_better else new > old
