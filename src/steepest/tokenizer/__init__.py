"""Tokenizers: text to ids and back, without loss."""

from steepest.tokenizer.bpe import train_bpe
from steepest.tokenizer.elementary import bytes_tokenizer, chars_tokenizer
from steepest.tokenizer.tokenizer import Tokenizer
from steepest.tokenizer.vocabulary import TokenizerConfig, choose_vocab_size, make_tokenizer

__all__ = [
    "Tokenizer",
    "TokenizerConfig",
    "bytes_tokenizer",
    "chars_tokenizer",
    "choose_vocab_size",
    "make_tokenizer",
    "train_bpe",
]
