"""Data: from files to batches of token ids.

    sources      names -> documents            formats, hub, builtin: how each is read
    spool        documents -> one file of distinct ones
    split        which part of each trains, which is held out
    encoding     text -> token ids, in parallel
    store        token ids on disk, memory-mapped
    corpus       all of it, kept on disk and found again by a fingerprint
    permutation  a keyed shuffle without memory
    batches      token ids -> the endless, repeatable sequence of batches

``batches`` needs torch and is imported on first use, so that reading and encoding start quickly.
"""

from typing import TYPE_CHECKING, Any

from steepest.data.corpus import Corpus, open_corpus, prepare_corpus
from steepest.data.sources import DataConfig, default_cache, read_documents
from steepest.data.store import TokenStore

if TYPE_CHECKING:
    from steepest.data.batches import IGNORE, Batch, Batches, BatchesConfig, evaluation_batches

__all__ = [
    "IGNORE",
    "Batch",
    "Batches",
    "BatchesConfig",
    "Corpus",
    "DataConfig",
    "TokenStore",
    "default_cache",
    "evaluation_batches",
    "open_corpus",
    "prepare_corpus",
    "read_documents",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from steepest.data import batches

        return getattr(batches, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
