"""Byte pair encoding: start from bytes, and again and again join the most frequent pair of neighbours.

    repeat:  (a, b) = argmax over pairs of count(a b inside words);  ab becomes a token

The ids are the bytes, end of text, then the merged tokens in the order learnt, so a tokenizer with a smaller
vocabulary trained on the same text is a prefix of a larger one. The ``tokenizers`` library learns the merges;
words are cut by ``words.py``.

Sources: Gage, "A New Algorithm for Data Compression", 1994; Sennrich, Haddow and Birch, "Neural Machine
Translation of Rare Words with Subword Units", 2016; on bytes, Radford et al., 2019.
"""

import json
from collections.abc import Iterable, Iterator

from tokenizers import trainers

from steepest.errors import TokenizerError
from steepest.tokenizer.byte_level import BYTE_ALPHABET, FIRST_FREE, assemble
from steepest.tokenizer.tokenizer import Tokenizer

SAMPLE_BYTES = 8_000_000
SAMPLE_BYTES_PER_TOKEN = 1_000
"""Text to learn from: at most ``SAMPLE_BYTES_PER_TOKEN`` for each token of the vocabulary, or ``SAMPLE_BYTES``
if that is more.

More changes little: for 40 MB of a dictionary and 4,096 tokens, learning from 20 MB instead of 8 gives 0.3%
more bytes per token, and takes 2.5 times as long.
"""

_PIECE = 1 << 14


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE tokenizer from all of ``texts``; the same texts give the same tokenizer.

    Args:
        texts: what to learn from; any lengths.
        vocab_size: tokens wanted, at least 257, the bytes and end of text.

    Raises:
        TokenizerError: the texts do not hold so many pairs that occur twice; the message names the largest.

    >>> tokenizer = train_bpe(["the cat and the hat"], vocab_size=260)
    >>> [tokenizer.decode([number]) for number in tokenizer.encode("the hat")]
    ['the', ' ', 'h', 'at']
    """
    tokenizer = train_up_to(texts, vocab_size)
    if tokenizer.vocab_size < vocab_size:
        raise TokenizerError(
            f"expected text enough for a vocabulary of {vocab_size}; it supports {tokenizer.vocab_size} at most "
            f"(after that no pair of tokens occurs twice); ask for {tokenizer.vocab_size} or less, or give more text"
        )
    return tokenizer


def train_up_to(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The same, with a smaller vocabulary where the texts do not support the one wanted."""
    if vocab_size < FIRST_FREE:
        raise TokenizerError(
            f"a byte-level vocabulary holds the 256 bytes and end of text, so at least {FIRST_FREE}; got {vocab_size}"
        )
    if isinstance(texts, str):  # its characters would pass for texts, and hold no pairs
        raise TokenizerError("expected several texts, got one string; put it into a list: [text]")
    learner = assemble("bpe", ())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # end of text is not learnt
        min_frequency=2,
        initial_alphabet=list(BYTE_ALPHABET),
        special_tokens=[],
        show_progress=False,
    )
    try:
        learner.train_from_iterator(_pieces(texts), trainer)
    except UnicodeEncodeError as error:
        raise TokenizerError(f"expected text, got half of a surrogate pair: {error}") from None
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    # two pairs may join to the same token: a dictionary keeps the first
    tokens = list(dict.fromkeys(left + right for left, right in merges))
    return Tokenizer(assemble("bpe", tokens, merges))


def sample_evenly(texts: Iterable[str], n_bytes: int, limit: int) -> Iterator[str]:
    """About ``limit`` bytes of ``texts``, in pieces of 16 thousand characters spread evenly over all of them.

    Args:
        texts: what to take from.
        n_bytes: how much there is; if no more than ``limit``, everything is taken.
        limit: how much to take.

    >>> sample = list(sample_evenly(["a" * 60_000, "b" * 60_000], n_bytes=120_000, limit=40_000))
    >>> [piece[0] for piece in sample]
    ['a', 'a', 'b']
    """
    share = min(1.0, limit / max(n_bytes, 1))
    seen = taken = 0
    for piece in _pieces(texts):
        seen += len(piece)
        if taken < share * seen:
            taken += len(piece)
            yield piece


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), _PIECE):
            yield text[start : start + _PIECE]
