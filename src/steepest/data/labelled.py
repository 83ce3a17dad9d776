"""Labelled texts: read and checked, and as batches for training and judging.

    label    text                        TSV (with or without a header), CSV, JSON lines, Parquet
    sports   Ward still standing ...

Shapes: N rows, B rows of a batch, T positions, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.config import nearest
from steepest.data.batches import BatchesConfig, refuse_other_order
from steepest.data.formats import NoColumnError, format_of, text_blocks
from steepest.data.padding import Ints, RaggedIds, batches_an_epoch, sorted_batches
from steepest.data.rows import Rows, read_rows
from steepest.errors import DataError

LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent")
TEXT_NAMES = ("text", "sentence", "sequence", "document", "content", "smiles")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Texts, each with the name of its class ("" where the file has no labels)."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | Ints) -> "Labelled":
        """Some rows, in that order."""
        return Labelled([self.texts[row] for row in rows], [self.labels[row] for row in rows])


def read_labelled(
    path: Path | str, *, text_column: str | None = None, label_column: str | None = None, labels: bool = True
) -> Labelled:
    """Read labelled texts; columns that are not named are found by their usual names, or as the only other one.

    Args:
        labels: whether there must be any.

    Raises:
        DataError: no such file or column (names the nearest), or no row.
    """
    known = [name for name in (text_column, label_column) if name]
    rows = read_rows(path, headers=known or (*LABEL_NAMES, *TEXT_NAMES))
    if not labels and len(rows.columns) == 1:
        return Labelled([cell for (cell,) in rows.cells], [""] * len(rows))
    label = _column(rows, label_column, LABEL_NAMES, text_column, "label")
    text = _column(rows, text_column, TEXT_NAMES, label, "text")
    if text is None or (labels and label is None):
        what, option = ("text", "--text-column") if text is None else ("label", "--label-column")
        raise DataError(
            f"{rows.label}: which column is the {what}? Its columns: {', '.join(rows.columns)}; name it with {option}"
        )
    return Labelled(rows.column(text), rows.column(label) if label else [""] * len(rows))


def read_texts(path: Path | str, *, text_column: str | None = None) -> list[str]:
    """The texts of a table, with labels or without, or of a plain text file, one a line."""
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".zst")]
    plain = format_of(path) == "text" and suffixes[-1:] not in ([".tsv"], [".tab"])
    if plain and path.is_file():
        return lines_of(b"".join(text_blocks(path, str(path))).decode())
    return read_labelled(path, text_column=text_column, labels=False).texts


def lines_of(text: str) -> list[str]:
    r"""The lines of a text: line feeds divide them and nothing else, so as many as an editor or ``wc`` counts.

    >>> lines_of("a\u2028b\r\n\nc\n"), lines_of("")
    (['a\u2028b', '', 'c'], [])
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _column(rows: Rows, asked: str | None, usual: Sequence[str], other: str | None, what: str) -> str | None:
    """The name of a column: the one asked for, one with a usual name, or of two columns the remaining one."""
    if asked is not None:
        if asked not in rows.columns:
            raise NoColumnError(
                f'{rows.label}: no column "{asked}"{nearest(asked, rows.columns) or "."} '
                f"Its columns: {', '.join(rows.columns)}; choose with --{what}-column"
            )
        return asked
    if not rows.named and len(rows.columns) == 2:
        return _unnamed(rows, other, what)
    lower = {name.lower(): name for name in rows.columns if name != other}
    for name in usual:
        if name in lower:
            return lower[name]
    return next(iter(lower.values())) if len(lower) == 1 and other is not None else None


def _unnamed(rows: Rows, other: str | None, what: str) -> str:
    """Of two columns without names the label is the one with fewer different values, the first if equal."""
    first, second = rows.columns
    if other is not None:
        return second if other == first else first
    kinds = [len(set(rows.column(name))) for name in (first, second)]
    label = second if kinds[1] < kinds[0] else first
    return label if what == "label" else (second if label == first else first)


@dataclass(frozen=True)
class LabelledBatch:
    """Some labelled texts.

    Attributes:
        ids_BT: int64, filled up behind each text's end.
        lengths_B: int64 tokens of each.
        labels_B: int64 classes; one beyond the model's is a class it does not know.
        offset_BC: float32, what another model says already, as log-probabilities.
        calibrates: these rows may choose what is fitted on held-out rows.
    """

    ids_BT: Tensor
    lengths_B: Tensor
    labels_B: Tensor
    offset_BC: Tensor
    calibrates: bool = False

    @property
    def n_targets(self) -> int:
        """Texts."""
        return len(self.labels_B)

    def to(self, device: torch.device | str) -> "LabelledBatch":
        """The same batch on a device."""
        ids, lengths, labels, offset = (each.to(device, non_blocking=True) for each in self._tensors())
        return LabelledBatch(ids, lengths, labels, offset, self.calibrates)

    def split(self, rows: int) -> list["LabelledBatch"]:
        """Micro-batches of at most ``rows`` texts, in order, each no wider than its longest text."""
        if rows >= len(self.labels_B):
            return [self]
        parts = []
        for at in range(0, len(self.labels_B), rows):
            ids, lengths, labels, offset = (each[at : at + rows] for each in self._tensors())
            parts.append(LabelledBatch(ids, lengths, labels, offset, self.calibrates))
        return parts

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.ids_BT, self.lengths_B, self.labels_B, self.offset_BC


@dataclass(frozen=True)
class EncodedRows:
    """Labelled texts as token ids, with what another model says of them.

    Attributes:
        labels_N: int64.
        offset_NC: float32 log-probabilities.
    """

    ids: RaggedIds
    labels_N: Ints
    offset_NC: Floats

    def take(self, rows: Ints) -> "EncodedRows":
        """Some rows."""
        bounds = self.ids.bounds
        ids = RaggedIds.join(self.ids.tokens[bounds[row] : bounds[row + 1]] for row in rows)
        return EncodedRows(ids, self.labels_N[rows], self.offset_NC[rows])

    def batch(self, rows: Ints, *, context: int, fill: int, calibrates: bool = False) -> LabelledBatch:
        """Some rows as a batch."""
        ids_BT, lengths_B = self.ids.pad(rows, context=context, fill=fill)
        labels_B, offset_BC = torch.from_numpy(self.labels_N[rows]), torch.from_numpy(self.offset_NC[rows])
        return LabelledBatch(ids_BT, lengths_B, labels_B, offset_BC, calibrates)

    def batches(
        self, *, context: int, fill: int, size: int = 64, calibrates: bool = False
    ) -> Iterator[LabelledBatch]:
        """All rows once, the short ones first."""
        order = np.argsort(self.ids.lengths, kind="stable")
        for at in range(0, len(order), size):
            yield self.batch(order[at : at + size], context=context, fill=fill, calibrates=calibrates)


class LabelledBatches:
    """The endless sequence of training batches: a pure function of (seed, step).

    Args:
        rows: what to train on.
        context: longer texts are cut there.
        batch: texts of a step.
        fill: the id behind a text's end.
    """

    def __init__(
        self, rows: EncodedRows, *, context: int, batch: int, seed: int, fill: int, fingerprint: str
    ) -> None:
        self.rows, self.context, self.batch, self.seed = rows, context, batch, seed
        self.fill, self.fingerprint = fill, fingerprint
        self.n_sequences = len(rows.labels_N)
        self.a_epoch = batches_an_epoch(self.n_sequences, batch)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def at(self, step: int) -> LabelledBatch:
        """The batch of a step."""
        epoch, place = divmod(step, self.a_epoch)
        return self.rows.batch(self._epoch(epoch)[place], context=self.context, fill=self.fill)

    def epoch(self, step: int) -> float:
        """Epochs behind at the beginning of a step."""
        return step / self.a_epoch

    def state_dict(self) -> dict[str, Any]:
        """What the sequence is a sequence of."""
        return {
            "seed": self.seed,
            "context": self.context,
            "batch": self.batch,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from, the step says it all; another sequence's state is a ``DataError``."""
        refuse_other_order(self.state_dict(), state)

    def _make_epoch(self, epoch: int) -> list[Ints]:
        lengths = np.minimum(self.rows.ids.lengths, self.context)
        return sorted_batches(lengths, batch=self.batch, seed=self.seed, epoch=epoch)


@dataclass(frozen=True)
class LabelledExamples:
    """Labelled rows to train on and to be judged on.

    Attributes:
        path: the training file.
        fill: the id behind a text's end.
        fingerprint: of texts, labels and offsets.
    """

    path: Path
    train: EncodedRows
    development: EncodedRows
    fill: int
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from."""
        return len(self.train.ids.tokens)

    @property
    def held_out_tokens(self) -> int:
        """Tokens of the development part."""
        return len(self.development.ids.tokens)

    def train_batches(self, config: BatchesConfig, *, context: int, rows: int) -> LabelledBatches:
        """Batches of ``rows`` texts."""
        return LabelledBatches(
            self.train, context=context, batch=rows, seed=config.seed, fill=self.fill, fingerprint=self.fingerprint
        )  # fmt: skip

    def held_out_batches(
        self, config: BatchesConfig, *, context: int, tokens: int | None = None
    ) -> Iterator[LabelledBatch]:
        """The development part; whole, it may calibrate."""
        part = self.development
        whole = tokens is None or tokens >= self.held_out_tokens
        if not whole and tokens is not None:
            wanted = max(1, len(part.labels_N) * tokens // max(self.held_out_tokens, 1))
            part = part.take(np.arange(wanted) * len(part.labels_N) // wanted)
        return part.batches(context=context, fill=self.fill, calibrates=whole)
