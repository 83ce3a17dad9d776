"""The corpus: token ids on disk, memory-mapped, found again by a fingerprint of sources and tokenizer.

    <cache>/corpora/<fingerprint>/
        train.bin, validation.bin                  ids back to back, raw little-endian uint16 or uint32,
                                                   every document followed by end-of-text
        train.starts.npy, validation.starts.npy    int64, where each document begins, in tokens
        tokenizer.json
        meta.json                                  counts, sizes, how it was split

A folder appears whole or not at all, so that a half-made one is never found and two processes that prepare
the same corpus cannot hurt each other. Opening maps files and
reads one small JSON: milliseconds whatever the size. The fingerprint covers path, size and time of change of
every source file, the data settings and the tokenizer settings. A changed source is prepared anew; old
folders stay until someone deletes them, which is always safe.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steepest.atomic_folder import atomic_folder
from steepest.data.encoding import SMALL, Encoded, Pieces, cut_pieces, encode_spool, id_type
from steepest.data.hub import remember_revision
from steepest.data.sources import DataConfig, Source, find_sources, iterate_documents, said, stored_stream
from steepest.data.split import Split, split_documents
from steepest.data.spool import Spool, mapped, write_spool
from steepest.data.store import TokenStore, open_store, sync, write_store
from steepest.errors import DataError, StorageError
from steepest.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer

if TYPE_CHECKING:
    from steepest.data.batches import Batch, Batches, BatchesConfig

Progress = Callable[[str, int, int], None]

_FORMAT = 1
EVALUATION_ROWS = 32  # sequences of a held-out batch


@dataclass(frozen=True)
class Summary:
    """What became of the sources, for a person to read.

    Attributes:
        documents: distinct documents kept.
        duplicates: documents dropped because an earlier one is the same.
        empty: documents dropped because they hold nothing.
        passed_over: files in directories that were not read, by reason.
        split: ``hash``, ``position`` or ``none``.
        n_bytes: bytes of all kept text.
    """

    documents: int
    duplicates: int
    empty: int
    passed_over: dict[str, int]
    split: str
    n_bytes: int


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: its folder.
        fingerprint: of sources, data settings and tokenizer settings.
        train: tokens to train on.
        validation: tokens held out; empty if ``validation`` was 0.
        vocab_size: of its tokenizer.
        summary: what became of the sources.
        reused: it was found prepared.
    """

    path: Path
    fingerprint: str
    train: TokenStore
    validation: TokenStore
    vocab_size: int
    summary: Summary
    reused: bool = field(default=True, compare=False)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.path / "tokenizer.json"

    @property
    def content(self) -> str:
        """Hash of all its token ids, wherever they are kept."""
        parts = (self.train, self.validation)
        return hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()

    @property
    def n_tokens(self) -> int:
        """Tokens of both parts."""
        return self.train_tokens + self.held_out_tokens

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from."""
        return len(self.train.tokens)

    @property
    def held_out_tokens(self) -> int:
        """Tokens to be judged on."""
        return len(self.validation.tokens)

    def train_batches(self, config: "BatchesConfig", *, context: int, rows: int) -> "Batches":
        """The endless sequence of training batches."""
        from steepest.data.batches import Batches  # needs torch, which reading and encoding do not

        return Batches(
            self.train, context=context, batch=rows, seed=config.seed, document_mask=config.document_mask
        )

    def held_out_batches(
        self, config: "BatchesConfig", *, context: int, tokens: int | None = None
    ) -> "Iterator[Batch]":
        """The held-out text, every token predicted once; or about ``tokens`` of them."""
        from steepest.data.batches import evaluation_batches

        return evaluation_batches(
            self.validation,
            context=context,
            batch=EVALUATION_ROWS,
            max_tokens=tokens,
            document_mask=config.document_mask,
        )

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token, end-of-text counted as tokens."""
        return self.summary.n_bytes / self.n_tokens


def prepare_corpus(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    cache: Path,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Corpus:
    """Read, split, tokenize and store the sources, or find that this has been done.

    Args:
        data: what to read and how to split it.
        tokenizer: how to tokenize; trained on the training part only.
        cache: folder to keep it in, such as ``default_cache()``.
        progress: called with the stage ("reading", "tokenizer", "encoding"), bytes done, bytes in all (0: unknown).
        workers: encoding processes; none: one for each core if there is much to encode.

    Raises:
        DataError: a source that is missing, empty, unreadable or not text; nothing is left on the disk.
        StorageError: the cache cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     for _ in range(2):
    ...         corpus = prepare_corpus(DataConfig(), TokenizerConfig(kind="bytes"), Path(cache))
    ...         print(corpus.vocab_size, corpus.summary.documents > 50, corpus.reused)
    257 True False
    257 True True
    """
    sources, passed_over = find_sources(data, cache)
    given = (
        None if tokenizer.kind in ("auto", "bpe", "bytes", "chars") else make_tokenizer(tokenizer, tuple, 0)
    )
    streams = any(source.kind == "stream" for source in sources)
    if not streams and (corpus := _find(sources, data, tokenizer, given, cache)):
        return corpus
    needed = sum(source.size for source in sources)
    with _room_in(cache, needed), ExitStack() as stack:
        if streams:
            sources = [stack.enter_context(stored_stream(source, cache)) for source in sources]
            if corpus := _find(sources, data, tokenizer, given, cache):
                return corpus
        fingerprint = _fingerprint(sources, data, tokenizer, given)
        path = cache / "corpora" / fingerprint[:16]
        folder = stack.enter_context(atomic_folder(path, needed))
        meta = _build(folder, sources, passed_over, data, given or tokenizer, progress or _silent, workers)
        with (folder / "meta.json").open("w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, "fingerprint": fingerprint, **meta}, file, indent=1)
            sync(file)
        for source in sources:
            if source.hub is not None and source.version is not None:
                remember_revision(source.hub, source.version, cache)
    return _open(path, reused=False)


def open_corpus(path: Path) -> Corpus:
    """Open a prepared corpus: maps its files, reads none of them.

    Raises:
        DataError: the folder is not a whole corpus.
    """
    return _open(path, reused=True)


def _open(path: Path, reused: bool) -> Corpus:
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise DataError(
                f"{path}: a corpus of format {meta['format']}, this version reads {_FORMAT}; delete it"
            )
        train, validation = (
            open_store(path, name, meta["splits"][name], meta["dtype"], f"{meta['fingerprint']}:{name}")
            for name in ("train", "validation")
        )
        if not (path / "tokenizer.json").is_file():
            raise ValueError("tokenizer.json is missing")
        summary = Summary(**meta["summary"])
        return Corpus(path, meta["fingerprint"], train, validation, meta["vocab_size"], summary, reused)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a whole prepared corpus ({error}); delete it and prepare it again"
        ) from None


def _find(
    sources: list[Source], data: DataConfig, tokenizer: TokenizerConfig, given: Tokenizer | None, cache: Path
) -> Corpus | None:
    """The prepared corpus, if there is a whole one."""
    path = cache / "corpora" / _fingerprint(sources, data, tokenizer, given)[:16]
    if not path.is_dir():
        return None
    try:
        return open_corpus(path)
    except DataError:
        return None  # damaged: prepared again and replaced


def _fingerprint(
    sources: list[Source], data: DataConfig, tokenizer: TokenizerConfig, given: Tokenizer | None
) -> str:
    parts = {
        "format": _FORMAT,
        "sources": [source.identity() for source in sources],
        "data": data.model_dump(mode="json", exclude={"sources"}),
        "tokenizer": given.fingerprint if given else tokenizer.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build(
    folder: Path,
    sources: list[Source],
    passed_over: Counter[str],
    data: DataConfig,
    tokenizer: TokenizerConfig | Tokenizer,
    report: Progress,
    workers: int | None,
) -> dict[str, Any]:
    """Fill the folder of a corpus, except for ``meta.json``, whose content is returned."""
    total = sum(source.size for source in sources) if all(source.kind == "text" for source in sources) else 0
    spool = write_spool(
        iterate_documents(sources, data.text_column, passed_over),
        folder / "spool",
        lambda done: report("reading", done, total),
    )
    if len(spool.hashes) == 0:
        raise DataError(f"{', '.join(data.sources)}: no text in it{said(passed_over)}")
    with mapped(spool.path) as text:
        split = split_documents(text, spool.bounds, spool.hashes, data.validation, data.split)
    if isinstance(tokenizer, TokenizerConfig):
        tokenizer = _train_tokenizer(tokenizer, spool, split, report)
    tokenizer.save(folder / "tokenizer.json")
    sizes = _encode(folder, spool, split, tokenizer, workers, report)
    spool.path.unlink()
    summary = Summary(
        documents=len(spool.hashes),
        duplicates=spool.duplicates,
        empty=spool.empty,
        passed_over={reason: count for reason, count in sorted(passed_over.items()) if count},
        split=split.method,
        n_bytes=int(spool.bounds[-1]),
    )
    return {
        "dtype": id_type(tokenizer.vocab_size).__name__,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "splits": sizes,
        "summary": asdict(summary),
    }


def _train_tokenizer(config: TokenizerConfig, spool: Spool, split: Split, report: Progress) -> Tokenizer:
    n_bytes = int(split.train[:, 1].sum())

    def texts() -> Iterator[str]:
        done = 0
        with mapped(spool.path) as text:
            for task in cut_pieces(text, split.train, "bpe"):
                for offset, length, _ in task.tolist():
                    yield text[offset : offset + length].decode()
                    done += length
                report("tokenizer", done, n_bytes)

    return make_tokenizer(config, texts, n_bytes)


def _encode(
    folder: Path, spool: Spool, split: Split, tokenizer: Tokenizer, workers: int | None, report: Progress
) -> dict[str, dict[str, Any]]:
    """Write the stores; returns their sizes."""
    n_bytes = int(spool.bounds[-1])
    workers = workers or (1 if n_bytes < SMALL else _cores())
    done = 0

    def encoded(parts: npt.NDArray[np.int64]) -> Iterator[tuple[Pieces, Encoded]]:
        nonlocal done
        if len(parts):
            for task in encode_spool(spool.path, parts, tokenizer, folder / "tokenizer.json", workers):
                yield task
                done += int(task[0][:, 1].sum())
                report("encoding", done, n_bytes)

    return {
        "train": write_store(folder, "train", encoded(split.train)),
        "validation": write_store(folder, "validation", encoded(split.validation)),
    }


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def _room_in(cache: Path, needed: int) -> Iterator[None]:
    """Make the cache; if what follows fails, take the folders made for it away again."""
    corpora = cache / "corpora"
    made = [place for place in (corpora, *corpora.parents) if not place.exists()]
    try:
        corpora.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        cause = error.__cause__ if isinstance(error, StorageError) else error
        if isinstance(cause, OSError):
            raise _storage_error(cache, cause, needed) from cause
        raise


def _storage_error(cache: Path, error: OSError, needed: int) -> StorageError:
    advice = "set STEEPEST_CACHE to a folder that can be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(place for place in (cache.absolute(), *cache.absolute().parents) if place.exists())
        advice = (
            f"{shutil.disk_usage(there).free / 1e6:,.0f} MB are free, text of {needed / 1e6:,.0f} MB needs about "
            "twice that; free some space or set STEEPEST_CACHE to a folder with more"
        )
    return StorageError(f"cannot write to the cache {cache}: {error.strerror or error}; {advice}")
