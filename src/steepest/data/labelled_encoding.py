"""Labelled texts as token ids: which tokenizer, how long a context, how much each token tells."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steepest.data.padding import RaggedIds
from steepest.tokenizer import Tokenizer, TokenizerConfig, chars_tokenizer, make_tokenizer
from steepest.tokenizer.bpe import train_up_to

LONGEST = 256  # tokens, unless a longer context is asked for
LEAST_TOKENS, MOST_TOKENS, BYTES_A_TOKEN = 512, 8192, 64  # of the vocabulary: all words that come often


def tokenizer_for(texts: Sequence[str], config: TokenizerConfig, *, strings: bool) -> Tokenizer:
    """As asked; left open, characters for strings without words, else a vocabulary that has the common words."""
    n_bytes = sum(len(text.encode()) for text in texts)
    if config.kind != "auto" or config.vocab_size != "auto":
        return make_tokenizer(config, lambda: texts, n_bytes)
    if strings:
        return chars_tokenizer(texts)
    return train_up_to(texts, max(LEAST_TOKENS, min(MOST_TOKENS, n_bytes // BYTES_A_TOKEN)))


def encode_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> RaggedIds:
    """Texts as ids, with an end of text before and behind: a token that sees them all, and where they begin."""
    end = np.array([tokenizer.end_of_text], dtype=np.int32)
    return RaggedIds.join(np.concatenate([end, ids, end]) for ids in tokenizer.encode_batch(list(texts)))


def context_for(ids: RaggedIds) -> int:
    """Enough for 99 texts of 100, as a multiple of 8."""
    return min(LONGEST, 8 * -(-int(np.quantile(ids.lengths, 0.99, method="higher")) // 8))


def idf_of(ids: RaggedIds, vocab_size: int) -> npt.NDArray[np.float32]:
    """ln((1 + N) / (1 + n_v)) + 1: what a token tells of its text, before anything is learnt."""
    row = np.repeat(np.arange(len(ids)), ids.lengths)
    pairs = np.unique(row * vocab_size + ids.tokens)
    texts_V = np.bincount(pairs % vocab_size, minlength=vocab_size)
    return (np.log((1 + len(ids)) / (1 + texts_V)) + 1).astype(np.float32)
