"""The token store: the ids of one split in one file, memory-mapped, with the places where documents begin.

NAME.bin           ids back to back, raw little-endian uint16 or uint32, end-of-text after every document
NAME.starts.npy    int64, the position of each document's first token
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from steepest.data.encoding import Encoded, Pieces

_SAMPLE = 1 << 16


@dataclass(frozen=True)
class TokenStore:
    """The tokens of one split.

    Attributes:
        tokens: ids of all documents back to back, each document followed by end-of-text.
        document_starts: int64, the position in ``tokens`` where each document begins.
        n_bytes: bytes of the text that the tokens stand for (end-of-text stands for none).
        fingerprint: says which store this is; made from its size and both ends where it is not given.

    >>> store = TokenStore(np.array([5, 6, 0, 7, 0]), np.array([0, 3]), n_bytes=3)
    >>> len(store.tokens), len(store.document_starts)
    (5, 2)
    """

    tokens: npt.NDArray[np.integer[Any]]
    document_starts: npt.NDArray[np.int64]
    n_bytes: int
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            digest = hashlib.sha256(f"{self.tokens.dtype} {self.tokens.shape}".encode())
            digest.update(np.ascontiguousarray(self.tokens[:_SAMPLE]).tobytes())
            digest.update(np.ascontiguousarray(self.tokens[-_SAMPLE:]).tobytes())
            object.__setattr__(self, "fingerprint", digest.hexdigest())


def write_store(folder: Path, name: str, encoded: Iterable[tuple[Pieces, Encoded]]) -> dict[str, Any]:
    """Write encoded pieces, in order, as ``NAME.bin`` and ``NAME.starts.npy``; returns their sizes and a hash of the ids."""
    starts: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    tokens = n_bytes = 0
    content = hashlib.sha256()
    begins = True  # the next piece begins a document
    with (folder / f"{name}.bin").open("wb") as file:
        for pieces, (counts, ids) in encoded:
            at = tokens + np.cumsum(counts) - counts
            starts.append(at[np.concatenate([[begins], pieces[:-1, 2] == 1])])
            begins = bool(pieces[-1, 2])
            tokens += len(ids)
            n_bytes += int(pieces[:, 1].sum())
            raw = ids.astype(ids.dtype.newbyteorder("<"), copy=False).data
            content.update(raw)
            file.write(raw)
        sync(file)
    document_starts = np.concatenate(starts)
    with (folder / f"{name}.starts.npy").open("wb") as file:
        np.save(file, document_starts)
        sync(file)
    return {
        "tokens": tokens,
        "documents": len(document_starts),
        "bytes": n_bytes,
        "content": content.hexdigest(),
    }


def sync(file: IO[Any]) -> None:
    """Have the disk hold what was written, before a rename makes it count."""
    file.flush()
    os.fsync(file.fileno())


def open_store(folder: Path, name: str, sizes: dict[str, Any], dtype: str, fingerprint: str) -> TokenStore:
    """Map a written store; a ``ValueError`` says what does not fit the recorded sizes.

    The store's fingerprint is the hash of its ids, so that the same text elsewhere, or touched, goes on as the same.
    """
    file = folder / f"{name}.bin"
    stored = np.dtype(dtype).newbyteorder("<")
    size, expected = file.stat().st_size, sizes["tokens"] * stored.itemsize
    if size != expected:
        raise ValueError(f"{file.name} has {size} bytes, not {expected}")
    tokens = np.memmap(file, stored, "r") if size else np.empty(0, stored)
    starts = np.load(folder / f"{name}.starts.npy", mmap_mode="r" if sizes["documents"] else None)
    if starts.shape != (sizes["documents"],):
        raise ValueError(f"{name}.starts.npy has the shape {starts.shape}, not ({sizes['documents']},)")
    # Plain arrays on top of the maps: indexing a np.memmap costs several times as much.
    return TokenStore(
        tokens.view(np.ndarray), starts.view(np.ndarray), sizes["bytes"], sizes.get("content", fingerprint)
    )
