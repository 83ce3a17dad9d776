"""Texts of unequal length as rows of one batch: filled up at the end, and sorted so that little is filled.

    tokens   all rows end to end                 [a b c | d | e f]
    ids_BT   the rows of a batch, 0 behind them   a b c      lengths_B  3
                                                  d 0 0                 1

An epoch is a shuffle of all rows. It is cut into pools of ``POOL`` batches; a pool is sorted by length and cut
into batches; the batches are shuffled. So a batch holds rows of about one length, at random which, and every row
comes once an epoch. Everything is a pure function of (seed, epoch).

Shapes: N rows, B rows of a batch, T positions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.data.permutation import derive_keys, permute

POOL = 50  # batches that are sorted together

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RaggedIds:
    """Rows of token ids of any length, end to end.

    Attributes:
        tokens: int32, all rows.
        bounds: int64 (N + 1), where each row begins and the last ends.

    >>> rows = RaggedIds.join([[5, 6, 7], [8], []])
    >>> rows.lengths.tolist(), len(rows)
    ([3, 1, 0], 3)
    >>> ids_BT, lengths_B = rows.pad(np.array([1, 0]), context=2)
    >>> ids_BT.tolist(), lengths_B.tolist()
    ([[8, 0], [5, 6]], [1, 2])
    """

    tokens: npt.NDArray[np.int32]
    bounds: Ints

    @classmethod
    def join(cls, rows: Iterable[npt.ArrayLike]) -> "RaggedIds":
        """Put rows end to end."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.array([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *arrays]), lengths.cumsum())

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens of each row."""
        return np.diff(self.bounds)

    def pad(self, rows: Ints, *, context: int, fill: int = 0) -> tuple[Tensor, Tensor]:
        """Some rows as ``ids_BT`` (int64, as wide as the longest, at least 1) and ``lengths_B``.

        Args:
            rows: their numbers, int64 (B,).
            context: longer rows are cut there.
            fill: the id behind a row's end; a real one, for it is looked up in the embedding.
        """
        lengths = np.minimum(self.bounds[rows + 1] - self.bounds[rows], context)
        places = np.arange(max(1, int(lengths.max(initial=0))))
        inside = places < lengths[:, None]
        at = np.where(inside, self.bounds[rows][:, None] + places, 0)
        tokens = self.tokens if len(self.tokens) else np.zeros(1, np.int32)
        ids_BT = np.where(inside, tokens[at], fill).astype(np.int64)
        return torch.from_numpy(ids_BT), torch.from_numpy(lengths)


def sorted_batches(lengths: Ints, *, batch: int, seed: int, epoch: int, pool: int = POOL) -> list[Ints]:
    """The batches of one epoch, as row numbers: each row once, rows of like length together.

    Args:
        lengths: of all rows, (N,).
        batch: rows of a batch, nearly: N rows make ``max(1, round(N / batch))`` batches of equal size but for 1.
        pool: batches that are sorted together.

    >>> batches = sorted_batches(np.array([1, 9, 2, 8, 1, 9]), batch=2, seed=0, epoch=0)
    >>> sorted(np.concatenate(batches).tolist()), [len(rows) for rows in batches]
    ([0, 1, 2, 3, 4, 5], [2, 2, 2])
    """
    n = len(lengths)
    count = batches_an_epoch(n, batch)
    keys = derive_keys(seed, [2 * epoch, 2 * epoch + 1])
    order = permute(np.arange(n), n, keys[0])
    cuts = np.linspace(0, n, count + 1).round().astype(np.int64)
    batches: list[Ints] = []
    for first in range(0, count, pool):
        last = min(first + pool, count)
        rows = order[cuts[first] : cuts[last]]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += np.split(rows, cuts[first + 1 : last] - cuts[first])
    return [batches[index] for index in permute(np.arange(count), count, keys[1])]


def batches_an_epoch(n: int, batch: int) -> int:
    """Batches that ``n`` rows make.

    >>> batches_an_epoch(100, 32), batches_an_epoch(3, 32)
    (3, 1)
    """
    return max(1, round(n / batch))
