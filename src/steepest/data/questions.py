"""Rows of a table as questions: what is column i, given the values of its context? Each asked once.

Value tokens come first, one a (column, category); then one question token a column:

    id of value v of column i    start_i + v,   start_i = categories of all columns before it
    id of question i             V + i,         V = all categories

Rows that agree in a column's context ask the same question. So a table is a set of distinct questions, each with a
count of every answer, and the loss over N rows costs as much as the questions there are:

    -log p(rows) = - sum over questions q, answers v of  n_qv log p(v | q)

Where there are more than a batch holds, a step takes question q with probability pi_q = min(1, c n_q) and weight
1 / pi_q (n_q its rows, c set by the batch): frequent questions always and exactly, rare ones in turn, unbiased.

Shapes: B questions, T = 1 + P tokens of one (itself, then its context, filled up with itself), N answers.

Source of the weights: D. G. Horvitz and D. J. Thompson, 1952; systematic draws, W. G. Madow, 1949.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.data.batches import BatchesConfig
from steepest.data.table import Codes
from steepest.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QuestionBatch:
    """Some distinct questions and how often each answer was given.

    Attributes:
        ids_BT: int64, the question's token, then those of its context; filled up with the question's own.
        question_N: int64, which question an answer belongs to.
        answer_N: int64, its value token.
        weight_N: float32, how many rows gave it.
        n_targets: cells of the table that the batch stands for.
    """

    ids_BT: Tensor
    question_N: Tensor
    answer_N: Tensor
    weight_N: Tensor
    n_targets: int

    def to(self, device: torch.device | str) -> "QuestionBatch":
        """The same batch on a device."""
        return QuestionBatch(
            self.ids_BT.to(device, non_blocking=True),
            self.question_N.to(device, non_blocking=True),
            self.answer_N.to(device, non_blocking=True),
            self.weight_N.to(device, non_blocking=True),
            self.n_targets,
        )

    def split(self, rows: int) -> list["QuestionBatch"]:
        """Micro-batches of at most ``rows`` questions, in order."""
        if rows >= len(self.ids_BT):
            return [self]
        parts, counted = [], 0
        for at in range(0, len(self.ids_BT), rows):
            inside = (self.question_N >= at) & (self.question_N < at + rows)
            share = min(at + rows, len(self.ids_BT)) / len(self.ids_BT)
            cells = round(self.n_targets * share) - counted
            counted += cells
            parts.append(
                QuestionBatch(
                    self.ids_BT[at : at + rows],
                    self.question_N[inside] - at,
                    self.answer_N[inside],
                    self.weight_N[inside],
                    cells,
                )
            )
        return parts


class Questions:
    """All distinct questions of some rows.

    Args:
        codes: rows of category codes, (rows, n).
        cards: categories of each column.
        contexts: of each column, the columns that its question reads.

    >>> rows = np.array([[0, 1], [0, 1], [0, 0], [1, 1]])
    >>> questions = Questions(rows, cards=[2, 2], contexts=[[], [0]])
    >>> questions.ids_QT.tolist()  # "column 0?", "column 1, where column 0 is 0?", "... is 1?"
    [[4, 4], [5, 0], [5, 1]]
    >>> questions.question_N.tolist(), questions.answer_N.tolist(), questions.count_N.tolist()
    ([0, 0, 1, 1, 2], [0, 1, 2, 3, 3], [3.0, 1.0, 1.0, 2.0, 1.0])
    """

    def __init__(self, codes: Codes, cards: Sequence[int], contexts: Sequence[Sequence[int]]) -> None:
        self.n_rows, self.n_columns = codes.shape
        self.cards, self.contexts = tuple(cards), tuple(map(tuple, contexts))
        self.start = np.concatenate([[0], np.cumsum(cards)])
        widest = max(map(len, self.contexts), default=0)
        ids, question, answer, count = [], [], [], []
        before = 0
        for i, context in enumerate(self.contexts):
            which, first = distinct(codes[:, list(context)])
            block = np.full((len(first), 1 + widest), self.start[-1] + i)
            block[:, 1 : 1 + len(context)] = codes[first][:, list(context)] + self.start[list(context)]
            pairs, n = np.unique(which * cards[i] + codes[:, i], return_counts=True)
            ids.append(block)
            question.append(before + pairs // cards[i])
            answer.append(self.start[i] + pairs % cards[i])
            count.append(n)
            before += len(first)
        self.ids_QT: Codes = np.concatenate(ids)
        self.question_N: Codes = np.concatenate(question)
        self.answer_N: Codes = np.concatenate(answer)
        self.count_N: Floats = np.concatenate(count).astype(np.float64)

    def __len__(self) -> int:
        return len(self.ids_QT)

    @property
    def column_Q(self) -> Codes:
        """Which column each question is about."""
        column: Codes = self.ids_QT[:, 0] - self.start[-1]
        return column

    @cached_property
    def rows_Q(self) -> Floats:
        """How many rows ask each question."""
        rows: Floats = np.zeros(len(self))
        np.add.at(rows, self.question_N, self.count_N)
        return rows

    @property
    def fingerprint(self) -> str:
        """Changes with any row."""
        digest = hashlib.sha256(self.ids_QT.tobytes())
        digest.update(self.question_N.tobytes() + self.answer_N.tobytes() + self.count_N.tobytes())
        return digest.hexdigest()[:16]

    def batch(self, which: Codes | None = None, inclusion: Floats | None = None) -> QuestionBatch:
        """Some of the questions (all, if ``None``); their answers weigh 1 / ``inclusion``."""
        ids, question, answer, weight = self.ids_QT, self.question_N, self.answer_N, self.count_N
        if which is not None:
            place = np.full(len(self), -1)
            place[which] = np.arange(len(which))
            inside = place[question] >= 0
            question, answer, weight = place[question[inside]], answer[inside], weight[inside]
            ids = ids[which]
            if inclusion is not None:
                weight = weight / inclusion[question]
        return QuestionBatch(
            torch.from_numpy(ids),
            torch.from_numpy(question),
            torch.from_numpy(answer),
            torch.from_numpy(weight.astype(np.float32)),
            self.n_rows * self.n_columns,
        )


def distinct(context: Codes) -> tuple[Codes, Codes]:
    """Which distinct row each row is, and where each is first found; the order is that of the codes.

    Column after column, renumbered each time, so that no product of categories overflows.
    """
    which = np.zeros(len(context), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for column in context.T:
        _, first, which = np.unique(
            which * (int(column.max()) + 1) + column, return_index=True, return_inverse=True
        )
    return which, first


class QuestionBatches:
    """The endless sequence of training batches; a step is a pure function of (seed, step).

    Args:
        batch: questions a step; all of them, always, if there are no more.
    """

    def __init__(self, questions: Questions, *, batch: int, seed: int) -> None:
        self.questions, self.size, self.seed = questions, batch, seed
        self.inclusion = inclusion(questions.rows_Q, batch)
        self._whole = questions.batch() if len(questions) <= batch else None

    @property
    def n_sequences(self) -> int:
        """Questions of one pass."""
        return len(self.questions)

    def at(self, step: int) -> QuestionBatch:
        """The batch of a step."""
        if self._whole is not None:
            return self._whole
        dice = np.random.default_rng((self.seed, step))
        order = dice.permutation(len(self.questions))
        reach = np.cumsum(self.inclusion[order])
        marks = np.arange(self.size) + dice.random()
        which = np.sort(order[np.minimum(np.searchsorted(reach, marks, side="right"), len(order) - 1)])
        return self.questions.batch(which, self.inclusion[which])

    def epoch(self, step: int) -> float:
        """Passes behind at the beginning of a step."""
        return step * min(self.size, len(self.questions)) / len(self.questions)

    def state_dict(self) -> dict[str, Any]:
        """What the sequence is a sequence of."""
        return {"seed": self.seed, "batch": self.size, "fingerprint": self.questions.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; another sequence's is a ``DataError``."""
        for name, mine in self.state_dict().items():
            if state.get(name) != mine:
                raise DataError(
                    f"the saved order of the data has {name} {state.get(name)}, this run has {mine}; "
                    "restore what it was saved with, or start a new run"
                )


def inclusion(rows_Q: Floats, batch: int) -> Floats:
    """Probabilities min(1, c n_q) that add up to the batch.

    >>> inclusion(np.array([100.0, 2.0, 1.0, 1.0]), batch=2)
    array([1.  , 0.5 , 0.25, 0.25])
    """
    if len(rows_Q) <= batch:
        return np.ones(len(rows_Q))
    sure = np.zeros(len(rows_Q), dtype=bool)
    while True:
        c = (batch - sure.sum()) / rows_Q[~sure].sum()
        more = ~sure & (c * rows_Q >= 1)
        if not more.any():
            return np.where(sure, 1.0, c * rows_Q)
        sure |= more


class TableExamples:
    """The rows of a run, every one of them trained on; judged on none (see ``train/cross_fit.py``)."""

    def __init__(self, questions: Questions, path: Path) -> None:
        self.questions, self._path = questions, path

    @property
    def path(self) -> Path:
        """Where the table was found."""
        return self._path

    @property
    def train_tokens(self) -> int:
        """Tokens of all distinct questions."""
        return self.questions.ids_QT.size

    @property
    def held_out_tokens(self) -> int:
        """None: what is held out is held out by cross-fitting, before the last fit."""
        return 0

    def train_batches(self, config: BatchesConfig, *, context: int, rows: int) -> QuestionBatches:
        """Batches of ``rows`` questions."""
        return QuestionBatches(self.questions, batch=rows, seed=config.seed)

    def held_out_batches(
        self, config: BatchesConfig, *, context: int, tokens: int | None = None
    ) -> Iterator[QuestionBatch]:
        """None, which is an error to ask for."""
        raise DataError(
            "every row of a causal model trains, none is held out: its held-out figures, from cross-fitting, are in "
            "result.json; give other rows to be judged on"
        )
