"""Vocabulary: which tokenizer, and how many tokens, for the text at hand.

``auto`` chooses the power of two nearest to the square root of the bytes of text,

    V = 2 ** round(log2(n_bytes) / 2)      between 512 and ``limit``; bytes alone below 256 KiB,

so that 1 MB gives 1,024 tokens, 5.6 MB 2,048 and 30 MB 4,096. The reason is what a token is learnt from: its
vector, and what may follow it, are learnt from its own occurrences. Under this rule the median token occurs 225
to 350 times, for five texts between 0.47 and 40 MB (``docs/tokenizer.md``). A vocabulary growing in proportion
to the text would instead be made of ever rarer tokens, and one that does not grow would leave sequences longer
than they need be.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from steepest.config import RoomConfig
from steepest.errors import TokenizerError
from steepest.tokenizer.bpe import SAMPLE_BYTES, SAMPLE_BYTES_PER_TOKEN, sample_evenly, train_bpe, train_up_to
from steepest.tokenizer.byte_level import FIRST_FREE
from steepest.tokenizer.elementary import bytes_tokenizer, chars_tokenizer
from steepest.tokenizer.tokenizer import Tokenizer

SMALLEST_FOR_BPE = 1 << 18
SMALLEST, LARGEST = 1 << 9, 1 << 16  # ids up to the largest fit into two bytes


class TokenizerConfig(RoomConfig):
    """Which tokenizer to use."""

    kind: str = Field("auto", description='"auto", "bpe", "bytes", "chars", or the path of a tokenizer.json')
    vocab_size: int | Literal["auto"] = Field(
        "auto", description="tokens of a BPE vocabulary, 257 or more, or auto"
    )
    vocab_limit: int = Field(
        LARGEST, ge=FIRST_FREE, description="auto chooses no larger vocabulary than this"
    )

    @model_validator(mode="after")
    def _vocab_size_fits_kind(self) -> Self:
        if self.vocab_size == "auto":
            return self
        if self.kind not in ("auto", "bpe"):
            raise ValueError(
                f'vocab_size {self.vocab_size} is for "bpe"; kind "{self.kind}" has its own vocabulary, so leave it out'
            )
        if self.vocab_size < FIRST_FREE:
            raise ValueError(
                f"vocab_size is at least {FIRST_FREE}, the 256 bytes and end of text; got {self.vocab_size}; "
                'for bytes alone use kind "bytes"'
            )
        return self


def choose_vocab_size(n_bytes: int, limit: int | None = None) -> int:
    """The vocabulary for so many bytes of text; 257 means bytes alone.

    Args:
        n_bytes: bytes of training text.
        limit: largest allowed; by default 65,536.

    >>> [choose_vocab_size(n) for n in (100_000, 460_000, 1_000_000, 5_600_000, 40_000_000)]
    [257, 512, 1024, 2048, 8192]
    """
    if n_bytes < SMALLEST_FOR_BPE:
        return FIRST_FREE
    size: int = 2 ** round(math.log2(n_bytes) / 2)
    return min(size, LARGEST if limit is None else limit)


def make_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterable[str]], n_bytes: int) -> Tokenizer:
    """The tokenizer that a config asks for, made from the training text or read from a file.

    BPE learns from a sample of the texts, spread evenly over all of them: 8 MB, or 1,000 bytes a token if that
    is more.

    Args:
        config: what is wanted.
        texts: begins reading the training text; called once, and not at all where nothing is learnt.
        n_bytes: bytes of training text.

    Raises:
        TokenizerError: a file that cannot be read, or a vocabulary that the text does not support.

    >>> make_tokenizer(TokenizerConfig(vocab_size=258), lambda: ["abab"], n_bytes=4).encode("abba").tolist()
    [257, 98, 97]
    """
    match config.kind, config.vocab_size:
        case "bytes", _:
            return bytes_tokenizer()
        case "chars", _:
            return chars_tokenizer(texts())
        case "bpe" | "auto", int(size):
            return train_bpe(_sample(texts(), n_bytes, size), size)
        case "bpe" | "auto" as kind, _:
            size = choose_vocab_size(n_bytes, config.vocab_limit)
            if kind == "auto" and size == FIRST_FREE:
                return bytes_tokenizer()
            size = max(size, min(SMALLEST, config.vocab_limit))
            return train_up_to(_sample(texts(), n_bytes, size), size)
    return _read(config.kind)


def _sample(texts: Iterable[str], n_bytes: int, vocab_size: int) -> Iterable[str]:
    return sample_evenly(texts, n_bytes, max(SAMPLE_BYTES, SAMPLE_BYTES_PER_TOKEN * vocab_size))


def _read(kind: str) -> Tokenizer:
    path = Path(kind)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.exists():
        raise TokenizerError(
            f'tokenizer "{kind}": expected "auto", "bpe", "bytes", "chars" or the path of a tokenizer.json; '
            "there is no such file"
        )
    return Tokenizer.load(path)
