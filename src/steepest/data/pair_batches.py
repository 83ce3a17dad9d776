"""Batches of texts that belong together, in an order that is a pure function of (seed, step).

    pairs, scores   every epoch is a keyed shuffle of the rows; step s takes positions sR .. sR + R-1 of all epochs
    classes         every epoch cuts each class, shuffled, into clusters of ``CLUSTER`` texts and shuffles those,
                    so that every text of a batch has others of its class beside it

A batch holds all texts of its rows, row by row, as one rectangle of ids. Which rows share a text, and so are no
negatives of each other, is found in each batch anew: linked over a whole table, that would be too many.

Shapes: N rows of the table, R rows of a batch, K texts a row, B = R K texts, T positions.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.data.batches import BatchesConfig, refuse_other_order
from steepest.data.padding import Ints, RaggedIds
from steepest.data.pair_split import class_numbers, linked, text_numbers
from steepest.data.pairs import Form, PairTable
from steepest.data.permutation import derive_keys, permute
from steepest.errors import DataError
from steepest.tokenizer import Tokenizer

CLUSTER = 4  # texts of one class that stand together in a batch
EVALUATION_ROWS = 256  # of a held-out batch


@dataclass(frozen=True)
class PairBatch:
    """Some rows of texts.

    Attributes:
        ids_BT: int64, the texts row by row, filled up behind their ends.
        lengths: int64 (B,), tokens of each text; on the host, for it decides how the work is cut.
        width: texts of a row (K).
        groups_R: int64, rows of one group are no negatives of each other; of classes, the class.
        negative_groups: int64 (R (K - 2),), the group whose queries must not take a negative for wrong, or -1.
        scores_R: float32, how alike the two texts of a row are; for scores only.
        rows: int64 (R,), their numbers in the table.
        truth: what held-out rows are judged by; ``None`` when training.
    """

    ids_BT: Tensor
    lengths: Ints
    width: int
    groups_R: Tensor
    negative_groups: Tensor
    scores_R: Tensor | None
    rows: Ints
    truth: Any = None

    @property
    def n_targets(self) -> int:
        """Rows."""
        return len(self.rows)

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same batch on a device."""
        scores = self.scores_R
        return replace(
            self, ids_BT=self.ids_BT.to(device), groups_R=self.groups_R.to(device),
            negative_groups=self.negative_groups.to(device),
            scores_R=None if scores is None else scores.to(device),
        )  # fmt: skip

    def split(self, rows: int) -> list["PairBatch"]:
        """Parts of at most ``rows`` texts, and of one row at least."""
        step = max(1, rows // self.width)
        if step >= len(self.rows):
            return [self]
        return [self._part(at, min(at + step, len(self.rows))) for at in range(0, len(self.rows), step)]

    def _part(self, start: int, end: int) -> "PairBatch":
        texts, more = slice(start * self.width, end * self.width), max(0, self.width - 2)
        longest = max(1, int(self.lengths[texts].max(initial=0)))
        return replace(
            self, ids_BT=self.ids_BT[texts, :longest], lengths=self.lengths[texts],
            groups_R=self.groups_R[start:end],
            negative_groups=self.negative_groups[start * more : end * more],
            scores_R=None if self.scores_R is None else self.scores_R[start:end], rows=self.rows[start:end],
        )  # fmt: skip


@dataclass(frozen=True)
class EncodedPairs:
    """A table as token ids.

    Attributes:
        ids: the texts, row by row.
        numbers_NK: equal texts have equal numbers.
        classes_N: numbers of the classes; empty without.
        scores_N: empty without.
    """

    form: Form
    width: int
    ids: RaggedIds
    numbers_NK: Ints
    classes_N: Ints
    scores_N: "np.ndarray[tuple[int], np.dtype[np.float64]]"

    @classmethod
    def encode(cls, table: PairTable, tokenizer: Tokenizer, context: int) -> "EncodedPairs":
        """Tokenize a table; longer texts are cut at ``context`` tokens."""
        texts = [text for row in table.texts for text in row]
        ids = RaggedIds.join(row[:context] for row in tokenizer.encode_batch(texts))
        return cls(
            table.form, table.width, ids, text_numbers(table), class_numbers(table.classes), table.scores
        )

    def __len__(self) -> int:
        return len(self.numbers_NK)

    def batch(self, rows: Ints, *, context: int, truth: Any = None) -> PairBatch:
        """Some rows as a batch."""
        texts = (rows[:, None] * self.width + np.arange(self.width)).ravel()
        ids_BT, lengths_B = self.ids.pad(texts, context=context)
        numbers_RK = self.numbers_NK[rows]
        negatives = np.zeros(0, np.int64)
        if self.form == "pairs":
            groups = linked(numbers_RK)
            owner = dict(zip(numbers_RK[:, 1].tolist(), groups.tolist(), strict=True))
            negatives = np.array([owner.get(n, -1) for n in numbers_RK[:, 2:].ravel().tolist()], np.int64)
        else:
            groups = self.classes_N[rows] if self.form == "classes" else rows
        scores = torch.from_numpy(self.scores_N[rows]).float() if self.form == "scores" else None
        return PairBatch(
            ids_BT, lengths_B.numpy(), self.width, torch.from_numpy(np.ascontiguousarray(groups)),
            torch.from_numpy(negatives), scores, rows, truth,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """SHA-256 of everything that training sees."""
        digest = hashlib.sha256(f"{self.form} {self.width}".encode())
        for array in (self.ids.tokens, self.ids.bounds, self.numbers_NK, self.classes_N, self.scores_N):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class PairBatches:
    """The endless sequence of training batches.

    Args:
        pairs: the training rows.
        context: tokens of a text, at most.
        rows: of a step.
        seed: of the order.

    Raises:
        DataError: fewer distinct positives than rows of a step.
    """

    def __init__(self, pairs: EncodedPairs, *, context: int, rows: int, seed: int) -> None:
        distinct = len(np.unique(pairs.numbers_NK[:, -1 if pairs.form == "classes" else 1 % pairs.width]))
        if pairs.form != "scores" and rows > distinct:
            raise DataError(
                f"a batch of {rows:,} rows needs as many distinct texts, and there are {distinct:,} to train on; "
                f"set batches.batch_tokens to {distinct * pairs.width * context:,} or less, or give more rows"
            )
        self.pairs, self.context, self.rows, self.seed = pairs, context, rows, seed
        self.fingerprint = pairs.fingerprint()
        self._order = lru_cache(maxsize=2)(self._clusters if pairs.form == "classes" else self._shuffle)
        self.a_epoch = len(self._order(0))

    @property
    def n_sequences(self) -> int:
        """Texts of one epoch."""
        return self.a_epoch * self.pairs.width

    def at(self, step: int) -> PairBatch:
        """The batch of a step."""
        places = step * self.rows + np.arange(self.rows, dtype=np.int64)
        epochs, at = np.divmod(places, self.a_epoch)
        rows = np.concatenate([self._order(int(epoch))[at[epochs == epoch]] for epoch in np.unique(epochs)])
        return self.pairs.batch(rows, context=self.context)

    def epoch(self, step: int) -> float:
        """Epochs behind at the beginning of a step."""
        return step * self.rows / self.a_epoch

    def state_dict(self) -> dict[str, Any]:
        """What the sequence is a sequence of."""
        return {
            "seed": self.seed, "context": self.context, "rows": self.rows, "fingerprint": self.fingerprint,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from, the step says it all; another sequence's state is a ``DataError``."""
        refuse_other_order(self.state_dict(), state)

    def _shuffle(self, epoch: int) -> Ints:
        n = len(self.pairs)
        return permute(np.arange(n), n, derive_keys(self.seed, 2 * epoch)[0])

    def _clusters(self, epoch: int) -> Ints:
        """Rows in clusters of one class; the classes' leftovers of one text are left out this time."""
        n = len(self.pairs)
        keys = derive_keys(self.seed, [2 * epoch, 2 * epoch + 1])
        order = np.lexsort((permute(np.arange(n), n, keys[0]), self.pairs.classes_N))
        classes = self.pairs.classes_N[order]
        starts = np.flatnonzero(np.diff(classes, prepend=-1))
        place = np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))
        clusters = np.cumsum(place % CLUSTER == 0) - 1
        sizes = np.bincount(clusters)
        kept = sizes[clusters] > 1
        rank = permute(np.arange(len(sizes)), len(sizes), keys[1])
        order, clusters = order[kept], clusters[kept]
        shuffled: Ints = order[np.argsort(rank[clusters], kind="stable")].astype(np.int64)
        return shuffled


@dataclass(frozen=True)
class PairExamples:
    """Rows to learn from and to be judged on.

    Attributes:
        path: the first file.
        truth: what held-out rows are judged by; ``None`` if nothing is held out.
    """

    path: Path
    train: EncodedPairs
    held_out: EncodedPairs
    truth: Any = field(default=None, compare=False)

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from."""
        return len(self.train.ids.tokens)

    @property
    def judged_whole(self) -> bool:
        """A rank among a part of the candidates is another figure."""
        return True

    @property
    def held_out_tokens(self) -> int:
        """Tokens to be judged on."""
        return len(self.held_out.ids.tokens)

    def train_batches(self, config: BatchesConfig, *, context: int, rows: int) -> PairBatches:
        """Batches of ``rows`` texts, in whole rows of the table."""
        return PairBatches(
            self.train, context=context, rows=max(1, rows // self.train.width), seed=config.seed
        )

    def held_out_batches(
        self, config: BatchesConfig, *, context: int, tokens: int | None = None
    ) -> Iterator[PairBatch]:
        """The held-out rows, always whole: a rank among a part of the candidates is another figure."""
        return batches_in_order(self.held_out, context=context, truth=self.truth)


def batches_in_order(pairs: EncodedPairs, *, context: int, truth: Any) -> Iterator[PairBatch]:
    """Every row once, in the table's order."""
    for at in range(0, len(pairs), EVALUATION_ROWS):
        rows = np.arange(at, min(at + EVALUATION_ROWS, len(pairs)), dtype=np.int64)
        yield pairs.batch(rows, context=context, truth=truth)


def batches_of_texts(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> Iterator[PairBatch]:
    """Texts by themselves, in their order, as batches to be embedded."""
    table = PairTable("texts", "classes", (), [(text,) for text in texts], [""] * len(texts), np.zeros(0))
    yield from batches_in_order(EncodedPairs.encode(table, tokenizer, context), context=context, truth=None)
