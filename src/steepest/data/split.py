"""Which text trains and which is held out, decided by the text alone.

By hash: a document is held out if its content's hash, read as a number in [0, 1), is below the wanted share.
The same document falls on the same side whatever stands around it, so adding data later moves nothing over.

By position: the last share of every document is held out. That is the way for one long document, and for a
few, where whole documents cannot come near the wanted share (within half to double of it, by bytes).
"""

import mmap
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steepest.errors import DataError

Method = Literal["hash", "position", "none"]


@dataclass(frozen=True)
class Split:
    """Parts of a spool, in order, as rows of (offset, length) in bytes: int64 [parts, 2]."""

    method: Method
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def split_documents(
    text: bytes | mmap.mmap,
    bounds: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
    share: float,
    method: Literal["auto", "hash", "position"] = "auto",
) -> Split:
    """Split documents into a training and a held-out part.

    Args:
        text: the documents end to end, UTF-8; looked at only where one is cut.
        bounds: int64 [documents + 1], where each begins and the last ends.
        hashes: uint64 [documents], of each document's content.
        share: of the bytes to hold out; 0 holds out nothing.
        method: how; ``auto`` takes ``hash`` if it comes within half to double of the share.

    >>> split = split_documents(b"0123456789", np.array([0, 10]), np.array([7], np.uint64), share=0.2)
    >>> split.method, split.train.tolist(), split.validation.tolist()
    ('position', [[0, 8]], [[8, 2]])
    """
    parts = np.stack([bounds[:-1], np.diff(bounds)], axis=1)
    if share == 0:
        return Split("none", parts, parts[:0])
    held_out = hashes < np.uint64(round(share * 2**64))
    reached = parts[held_out, 1].sum() / max(parts[:, 1].sum(), 1)
    if method == "hash" and (held_out.all() or not held_out.any()):
        side = "train on" if held_out.all() else "validate on"
        raise DataError(
            f"the split by hash leaves nothing to {side}: {len(parts)} documents, {share:.1%} wanted; "
            'use split "position" or give more documents'
        )
    if method == "hash" or (method == "auto" and share / 2 <= reached <= 2 * share and not held_out.all()):
        return Split("hash", parts[~held_out], parts[held_out])
    cuts = np.array([_cut(text, int(offset), int(length), share) for offset, length in parts], dtype=np.int64)
    train = np.stack([parts[:, 0], cuts - parts[:, 0]], axis=1)
    validation = np.stack([cuts, bounds[1:] - cuts], axis=1)
    split = Split("position", train[train[:, 1] > 0], validation[validation[:, 1] > 0])
    if not len(split.train) or not len(split.validation):
        raise DataError(
            f"{bounds[-1]} bytes of text are too few to hold out {share:.1%}; give more text or set validation to 0"
        )
    return split


def _cut(text: bytes | mmap.mmap, offset: int, length: int, share: float) -> int:
    """The last beginning of a character at or before the wanted place, and before the end."""
    cut = offset + int(length * (1 - share))
    while cut > offset and (cut == offset + length or text[cut] & 0b1100_0000 == 0b1000_0000):
        cut -= 1
    return cut
