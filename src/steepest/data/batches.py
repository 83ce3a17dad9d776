"""Batches: an endless sequence of token windows whose order is a pure function of (seed, epoch, position).

The store is read as a ring of n tokens. An epoch is m = n div T windows of T tokens that lie end to end from
an offset of its own; window k of epoch e covers

    inputs    tokens[o_e + kT + t]        t = 0 .. T-1, positions modulo n
    targets   tokens[o_e + kT + t + 1]

so every token is a target once an epoch, but for n mod T of them, others each time. A keyed permutation
shuffles the windows of each epoch, and step s takes positions s*B .. s*B + B-1 of all epochs in a row.
Offset and permutation are computed from (seed, e), so nothing is stored: any step can be asked for at any
time, however many machines share it and however it is cut into micro-batches.

The ring closes well: the last token of a store is an end-of-text, and documents follow each other in no
particular order anyway.

Shapes: B sequences, T tokens of context.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from steepest.config import RoomConfig
from steepest.data.permutation import derive_keys, permute
from steepest.data.store import TokenStore
from steepest.errors import DataError

IGNORE = -100

Positions = npt.NDArray[np.int64]


class BatchesConfig(RoomConfig):
    """How tokens are cut into batches."""

    context: int | None = Field(None, ge=1, description="tokens per sequence; none: chosen with the model")
    batch_tokens: int | None = Field(None, ge=1, description="tokens per optimiser step; none: chosen")
    seed: int = Field(0, ge=0, description="of the order of the data")
    document_mask: bool = Field(False, description="no token attends to another document")


@dataclass(frozen=True)
class Batch:
    """Some windows of tokens.

    Attributes:
        ids_BT: int64, the inputs.
        targets_BT: int64, the token after each input; ``IGNORE`` where nothing is to be predicted.
        document_ids_BT: int64, which document of its window each input belongs to, from 0; or ``None``.
        n_targets: targets that count.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    document_ids_BT: Tensor | None
    n_targets: int

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        documents = self.document_ids_BT
        return Batch(
            self.ids_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            None if documents is None else documents.to(device, non_blocking=True),
            self.n_targets,
        )

    def split(self, rows: int) -> list["Batch"]:
        """Micro-batches of at most ``rows`` sequences, in order.

        >>> batch = Batch(torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2, dtype=torch.int64), None, 10)
        >>> [part.n_targets for part in batch.split(2)]
        [4, 4, 2]
        """
        if rows >= len(self.ids_BT):
            return [self]
        parts = []
        for at in range(0, len(self.ids_BT), rows):
            part = slice(at, at + rows)
            documents = None if self.document_ids_BT is None else self.document_ids_BT[part]
            targets = self.targets_BT[part]
            parts.append(Batch(self.ids_BT[part], targets, documents, int((targets != IGNORE).sum())))
        return parts


def refuse_other_order(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse to go on with a sequence of batches that is not the one a state was saved of; names what differs."""
    for name, value in mine.items():
        if saved.get(name) != value:
            raise DataError(
                f"the saved order of the data has {name} {saved.get(name)}, this run has {value}; "
                f"restore {'the data it was saved with' if name == 'fingerprint' else 'that setting'} "
                "or start a new run"
            )


class Batches:
    """The endless sequence of training batches over a store.

    Args:
        store: the tokens.
        context: tokens per sequence (T).
        batch: sequences per step (B), over all ranks.
        seed: of the order.
        document_mask: also say which document each input belongs to.

    Raises:
        DataError: the store holds less than one sequence and the token after it.

    >>> store = TokenStore(np.arange(100), np.array([0]), n_bytes=100)
    >>> batches = Batches(store, context=8, batch=4, seed=0)
    >>> batches.n_sequences, batches.at(3).ids_BT.shape
    (12, torch.Size([4, 8]))
    >>> bool((batches.at(3).targets_BT == (batches.at(3).ids_BT + 1) % 100).all())
    True
    """

    def __init__(
        self, store: TokenStore, *, context: int, batch: int, seed: int, document_mask: bool = False
    ) -> None:
        if len(store.tokens) < context + 1:
            raise DataError(
                f"the text is shorter than one sequence: {len(store.tokens)} tokens to train on, "
                f"a context of {context} needs {context + 1}; give more text or a shorter context"
            )
        self.store, self.context, self.batch, self.seed = store, context, batch, seed
        self.document_mask = document_mask
        self.n_sequences = len(store.tokens) // context
        self.step = 0

    def at(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, or one rank's contiguous share of its sequences."""
        rows = np.arange(self.batch * rank // world, self.batch * (rank + 1) // world, dtype=np.int64)
        epochs, windows = np.divmod(step * self.batch + rows, self.n_sequences)
        keys = derive_keys(self.seed, 2 * epochs)
        offsets = derive_keys(self.seed, 2 * epochs + 1) % np.uint64(len(self.store.tokens))
        shuffled = permute(windows, self.n_sequences, keys)
        starts = (offsets.astype(np.int64) + shuffled * self.context) % len(self.store.tokens)
        return _gather(self.store, starts, self.context, self.document_mask)

    def epoch(self, step: int) -> float:
        """Epochs behind at the beginning of a step."""
        return step * self.batch / self.n_sequences

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.at(self.step)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands, and what it is a sequence of."""
        return {
            "step": self.step,
            "seed": self.seed,
            "context": self.context,
            "batch": self.batch,
            "document_mask": self.document_mask,
            "fingerprint": self.store.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            DataError: the state belongs to another sequence; names what differs.
        """
        refuse_other_order({**self.state_dict(), "step": state["step"]}, state)
        self.step = int(state["step"])


def evaluation_batches(
    store: TokenStore, *, context: int, batch: int, max_tokens: int | None = None, document_mask: bool = False
) -> Iterator[Batch]:
    """Every token of a store predicted exactly once, in windows that do not overlap.

    Window k predicts tokens kT .. kT + T-1 from the tokens before them. The first token of all is predicted
    from the last, an end-of-text, as every other document's first token is. So the sum of the losses over
    the store's ``n_bytes`` is its bits per byte, nothing left out.

    Args:
        store: the tokens.
        context: tokens per sequence (T); the last one is filled up with ``IGNORE``.
        batch: sequences per batch; the last may hold fewer.
        max_tokens: predict about that many instead, in windows spread evenly over the store.
        document_mask: also say which document each input belongs to.

    >>> store = TokenStore(np.arange(10), np.array([0]), n_bytes=10)
    >>> for part in evaluation_batches(store, context=4, batch=2):
    ...     print(part.ids_BT.tolist(), part.targets_BT.tolist())
    [[9, 0, 1, 2], [3, 4, 5, 6]] [[0, 1, 2, 3], [4, 5, 6, 7]]
    [[7, 8, 9, 0]] [[8, 9, -100, -100]]
    """
    n = len(store.tokens)
    if n < 2:
        raise DataError(
            f"nothing to evaluate on: the text has {n} tokens; hold out a larger share or give more text"
        )
    windows = np.arange(-(-n // context), dtype=np.int64)
    if max_tokens is not None and (wanted := max(1, -(-max_tokens // context))) < len(windows):
        windows = windows[np.arange(wanted) * len(windows) // wanted]
    groups = (windows[at : at + batch] * context - 1 for at in range(0, len(windows), batch))
    return (_evaluation_batch(store, starts, context, document_mask) for starts in groups)


def _evaluation_batch(store: TokenStore, starts: Positions, context: int, document_mask: bool) -> Batch:
    """Windows that predict the tokens after ``starts``, none of them beyond the store's last."""
    part = _gather(store, starts % len(store.tokens), context, document_mask)
    over = np.maximum(starts + 1 + context - len(store.tokens), 0)
    if over.any():
        part.targets_BT[torch.from_numpy(np.arange(context) >= (context - over)[:, None])] = IGNORE
    return Batch(part.ids_BT, part.targets_BT, part.document_ids_BT, part.n_targets - int(over.sum()))


def _gather(store: TokenStore, starts: Positions, context: int, document_mask: bool) -> Batch:
    """Windows that begin at the given positions of the ring."""
    places = starts[:, None] + np.arange(context + 1)
    window = np.take(store.tokens, places, mode="wrap")
    documents = torch.from_numpy(_documents(store, starts, context)) if document_mask else None
    ids, targets = window[:, :-1].astype(np.int64), window[:, 1:].astype(np.int64)
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), documents, targets.size)


def _documents(store: TokenStore, starts: Positions, context: int) -> npt.NDArray[np.int64]:
    """The document of each input, counted from 0 within its window.

    An end-of-text belongs to the document it opens, not to the one it closes: the first token of a document
    is then predicted from the end-of-text alone, as when text is generated from nothing, and no prediction
    crosses from one document to another. Every target counts.
    """
    n, begins = len(store.tokens), store.document_starts

    def beginnings_before(place: Positions) -> Positions:  # on the ring rolled out
        return place // n * len(begins) + np.searchsorted(begins, place % n)

    # A beginning at p is opened by the end-of-text at p - 1, an input other than the window's first.
    lowest, highest = beginnings_before(starts + 2), beginnings_before(starts + context + 1)
    counts = highest - lowest
    rows = np.repeat(np.arange(len(starts)), counts)
    which = (
        np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(lowest, counts)
    )
    at = begins[which % len(begins)] + which // len(begins) * n - 1 - starts[rows]
    opens = np.zeros((len(starts), context), np.int64)
    opens[rows, at] = 1
    return opens.cumsum(axis=1)
