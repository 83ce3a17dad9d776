"""The spool: every distinct document, once, end to end in one file of UTF-8, with offsets beside it.

Sources may be slow to read (packed, on a network) or readable once (a pipe), while what follows looks at
the text three times: to split it, to train a tokenizer, to encode it. So it is read once and spooled.
Exact duplicates are recognised by a 128-bit hash of their content, and only the first is kept. Repeated
documents would otherwise stand on both sides of the split and make the held-out loss look better than it is.
"""

import hashlib
import mmap
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steepest.data.formats import Document


@dataclass(frozen=True)
class Spool:
    """Distinct documents in one file.

    Attributes:
        path: the file.
        bounds: int64 [documents + 1]; document ``i`` is bytes ``bounds[i]`` to ``bounds[i + 1]``.
        hashes: uint64 [documents], of each document's content.
        duplicates: documents left out because an earlier one is the same.
        empty: documents left out because they hold nothing.
    """

    path: Path
    bounds: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    duplicates: int
    empty: int


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes as if they were in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield text


def write_spool(
    documents: Iterable[Document], path: Path, progress: Callable[[int], None] = lambda done: None
) -> Spool:
    """Write the distinct documents to ``path``; ``progress`` is told the bytes read so far.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spool = write_spool([[b"one"], [b"two"], [b"o", b"ne"], []], Path(folder, "spool"))
    ...     Path(folder, "spool").read_bytes(), spool.bounds.tolist(), spool.duplicates, spool.empty
    (b'onetwo', [0, 3, 6], 1, 1)
    """
    seen: set[bytes] = set()
    bounds, hashes = array("q", [0]), array("Q")
    duplicates = empty = done = told = 0
    with path.open("wb") as file:
        for document in documents:
            size = 0
            digest = hashlib.blake2b(digest_size=16)
            for block in document:
                digest.update(block)
                size += file.write(block)
                done += len(block)
                if done - told >= 1 << 20:
                    told = done
                    progress(done)
            key = digest.digest()
            if size == 0:
                empty += 1
            elif key in seen:
                duplicates += 1
                file.seek(bounds[-1])
                file.truncate()
            else:
                seen.add(key)
                bounds.append(bounds[-1] + size)
                hashes.append(int.from_bytes(key[:8], "little"))
        file.flush()
    return Spool(path, np.array(bounds, np.int64), np.array(hashes, np.uint64), duplicates, empty)
