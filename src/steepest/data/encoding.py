"""Text to token ids, in parallel: pieces of about a mebibyte go to worker processes and come back in order.

A long document is cut where the tokenizer could not have joined the two sides: for the byte-level BPE made
here, before white space that follows something else (see ``tokenizer/words.py``: a word always ends there);
for bytes and characters, between any two characters. Other tokenizers get their documents whole.

A worker is a fresh interpreter that imports this module and nothing of the caller's program. The usual
process pools import the caller's ``__main__`` again, which a ten-line script without a ``__main__`` guard, a
notebook or ``python -c`` does not survive. A worker maps the spool itself, so that only places go in.
"""

import mmap
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from steepest.data.spool import mapped
from steepest.errors import DataError
from steepest.tokenizer import Tokenizer
from steepest.tokenizer.words import REACH, words

Number = TypeVar("Number", bound=np.number[Any])

PIECE = 1 << 20
SMALL = 8 << 20  # below this, starting workers costs more than they save

Pieces = npt.NDArray[np.int64]  # rows of (offset, length, 1 if a document ends here)
Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.unsignedinteger]]  # tokens of each piece; all ids


def id_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The narrowest stored type that holds every id.

    >>> id_type(65536).__name__, id_type(65537).__name__
    ('uint16', 'uint32')
    """
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def cut_pieces(
    text: mmap.mmap | bytes, parts: npt.NDArray[np.int64], kind: str, size: int = PIECE
) -> Iterator[Pieces]:
    """Group parts of the spool into tasks of about ``size`` bytes, cutting long ones where ``kind`` allows.

    Args:
        text: the spool.
        parts: rows of (offset, length).
        kind: of the tokenizer; decides where a document may be cut.
        size: bytes per task.

    >>> parts = np.array([[0, 11]])
    >>> [task.tolist() for task in cut_pieces(b"one two\\nsix", parts, "bpe", size=9)]
    [[[0, 7, 0]], [[7, 4, 1]]]
    """
    rows: list[tuple[int, int, int]] = []
    total = 0
    for offset, length in parts.tolist():
        end = offset + length
        while offset < end:
            cut = end if end - offset <= size else _place_to_cut(text, offset, end, size, kind)
            rows.append((offset, cut - offset, int(cut == end)))
            total += cut - offset
            offset = cut
            if total >= size or len(rows) >= size // 64:
                yield np.array(rows, np.int64)
                rows, total = [], 0
    if rows:
        yield np.array(rows, np.int64)


def encode_piece(tokenizer: Tokenizer, text: mmap.mmap | bytes, pieces: Pieces) -> Encoded:
    """Ids of some pieces of the spool, end-of-text after each that ends a document."""
    texts = [text[offset : offset + length].decode() for offset, length, _ in pieces.tolist()]
    end = np.array([tokenizer.end_of_text], np.int32)
    arrays: list[npt.NDArray[np.int32]] = []
    counts = np.empty(len(pieces), np.int64)
    for number, (ids, ends) in enumerate(zip(tokenizer.encode_batch(texts), pieces[:, 2], strict=True)):
        counts[number] = len(ids) + ends
        arrays += [ids, end] if ends else [ids]
    return counts, np.concatenate(arrays).astype(id_type(tokenizer.vocab_size))


def encode_spool(
    spool: Path, parts: npt.NDArray[np.int64], tokenizer: Tokenizer, tokenizer_path: Path, workers: int
) -> Iterator[tuple[Pieces, Encoded]]:
    """Encode parts of a spool in order.

    Args:
        spool: a file of UTF-8 text.
        parts: rows of (offset, length) in bytes, one for each document.
        tokenizer: for encoding here, and to know where documents may be cut.
        tokenizer_path: the same tokenizer saved; workers load it.
        workers: processes; 1 encodes in this one.

    Yields:
        The pieces of one task, and what they became.
    """
    with mapped(spool) as text:
        tasks = cut_pieces(text, parts, tokenizer.kind)
        if workers <= 1:
            for task in tasks:
                yield task, encode_piece(tokenizer, text, task)
            return
        with _Workers(workers, spool, tokenizer_path, id_type(tokenizer.vocab_size)) as encode:
            waiting: deque[tuple[Pieces, Future[Encoded]]] = deque()
            for task in tasks:
                waiting.append((task, encode(task)))
                if len(waiting) > 3 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()


class _Workers:
    """Worker processes, each served by a thread that waits for its answers."""

    def __init__(
        self, number: int, spool: Path, tokenizer_path: Path, dtype: type[np.unsignedinteger]
    ) -> None:
        self.dtype = dtype
        # One thread in each: the processes already share the cores out.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", "from steepest.data.encoding import serve; serve()"]
        self.processes = [
            subprocess.Popen(
                [*command, str(spool), str(tokenizer_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for _ in range(number)
        ]
        self.free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self.processes:
            self.free.put(process)
        self.threads = ThreadPoolExecutor(number, thread_name_prefix="encode")

    def __enter__(self) -> Callable[[Pieces], "Future[Encoded]"]:
        return lambda task: self.threads.submit(self._ask, task)

    def __exit__(self, *error: object) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.kill()
        self.threads.shutdown(wait=True)
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)

    def _ask(self, task: Pieces) -> Encoded:
        process = self.free.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            _send(process.stdin, np.array([len(task)], np.int64), task)
            (total,) = _receive(process.stdout, 1, np.int64)
            if total < 0:
                message = _receive(process.stdout, -int(total), np.uint8).tobytes().decode()
                raise DataError(f"a part of the text cannot be encoded: {message}")
            counts = _receive(process.stdout, len(task), np.int64)
            return counts, _receive(process.stdout, int(total), self.dtype)
        except (OSError, EOFError):
            status = process.wait()
            raise DataError(
                f"an encoding worker stopped early (status {status}); if memory ran out, use fewer workers"
            ) from None
        finally:
            self.free.put(process)


def serve() -> None:
    """The worker's program: answer tasks from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # and if the parent is gone, go quietly
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not fall among the answers
    tokenizer = Tokenizer.load(Path(sys.argv[2]))
    with mapped(Path(sys.argv[1])) as text:
        while True:
            try:
                (number,) = _receive(tasks, 1, np.int64)
            except EOFError:
                return
            task = _receive(tasks, 3 * int(number), np.int64).reshape(-1, 3)
            try:
                counts, ids = encode_piece(tokenizer, text, task)
            except Exception as error:  # the parent raises it
                message = (str(error) or type(error).__name__).encode()
                _send(answers, np.array([-len(message)], np.int64), np.frombuffer(message, np.uint8))
            else:
                _send(answers, np.array([len(ids)], np.int64), counts, ids)


def _send(pipe: IO[bytes], *arrays: npt.NDArray[np.generic]) -> None:
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data.cast("B"))
    pipe.flush()


def _receive(pipe: IO[bytes], number: int, dtype: type[Number]) -> npt.NDArray[Number]:
    size = number * np.dtype(dtype).itemsize
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return np.frombuffer(data, dtype)


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):  # what was still to be written has no reader any more
        pipe.close()


def _place_to_cut(text: mmap.mmap | bytes, offset: int, end: int, size: int, kind: str) -> int:
    """Where to end a piece of about ``size`` bytes beginning at ``offset``; ``end`` if nowhere."""
    if kind not in ("bytes", "chars", "bpe"):
        return end
    stop = offset + size
    while stop < end and text[stop] & 0b1100_0000 == 0b1000_0000:  # inside a character
        stop += 1
    if kind != "bpe":
        return stop
    for white in (b"\n", b" "):
        cut = stop
        while (cut := text.rfind(white, offset + 1, cut)) > 0:
            before = text[max(offset, cut - 4) : cut].decode(errors="ignore")
            if not before[-1:].isspace():
                return cut
    # No white space anywhere: cut into words from the beginning, as the tokenizer will.
    found = words(text[offset:stop].decode())
    left = 0
    while found and left < REACH:
        left += len(found.pop())
    return offset + sum(len(word.encode()) for word in found) if found else end
