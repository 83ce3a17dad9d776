"""Examples: what a run learns from and is judged on, whatever its objective.

A corpus of text, labelled texts, pairs or a table each give batches to train on, in an order that is a pure
function of (seed, step), and batches to be judged on. A session needs no more than that.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from steepest.data.batches import BatchesConfig


class AnyBatch(Protocol):
    """Rows of token ids, and as much as the objective needs beside them."""

    @property
    def ids_BT(self) -> Tensor:
        """Token ids, (B, T)."""

    @property
    def n_targets(self) -> int:
        """What the loss counts: tokens, texts, pairs or cells."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""

    def split(self, rows: int) -> list[Self]:
        """Micro-batches of at most ``rows`` rows, in order; their ``n_targets`` add up."""


class TrainBatches(Protocol):
    """The endless sequence of training batches."""

    @property
    def n_sequences(self) -> int:
        """Rows of one epoch."""

    def at(self, step: int) -> AnyBatch:
        """The batch of a step: a pure function of the seed and the step."""

    def epoch(self, step: int) -> float:
        """Epochs behind at the beginning of a step."""

    def state_dict(self) -> dict[str, Any]:
        """What the sequence is a sequence of, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; another sequence's is a ``DataError``."""


class Examples(Protocol):
    """What a run learns from and is judged on."""

    @property
    def path(self) -> Path:
        """Where they were found, or are kept."""

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from, each counted once."""

    @property
    def held_out_tokens(self) -> int:
        """Tokens to be judged on; 0 if nothing is held out."""

    def train_batches(self, config: BatchesConfig, *, context: int, rows: int) -> TrainBatches:
        """Batches of ``rows`` sequences of at most ``context`` tokens."""

    def held_out_batches(
        self, config: BatchesConfig, *, context: int, tokens: int | None = None
    ) -> Iterator[AnyBatch]:
        """Everything held out, once; or about ``tokens`` of it, spread evenly."""
