"""Byte level: tokenizers whose smallest tokens are the 256 bytes of UTF-8, so that every text has an encoding.

The ``tokenizer.json`` of Hugging Face holds strings, not bytes. Byte-level files therefore write each byte as one
printable character, the *byte alphabet* of GPT-2: printable Latin-1 characters stand for themselves, the other
68 bytes for U+0100, U+0101, ... in order. The space becomes "Ġ", the newline "Ċ".

All three kinds made here share one layout of ids:

    0 .. 255    the bytes themselves
    256         end of text
    257 ..      what the kind adds: nothing (bytes), characters (chars), merged pairs in the order learnt (bpe)

and one pipeline of the file: cut into words, write in the byte alphabet, model, and back. A file is recognised
by that layout and pipeline, not by its name, so a fast encoder is never used on a file it does not fit.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from steepest.tokenizer.words import PATTERN

END_OF_TEXT = "<|endoftext|>"
FIRST_FREE = 257
"""The first id after the bytes and end of text."""

Kind = Literal["bpe", "bytes", "chars"]

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_ALPHABET = tuple(chr(byte if byte in _PRINTABLE else 256 + _OTHERS.index(byte)) for byte in range(256))
"""The character that stands for each byte."""

_TO_CHARACTERS = dict(enumerate(BYTE_ALPHABET))
_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}


def to_alphabet(text: str) -> str:
    r"""Write the UTF-8 bytes of a text in the byte alphabet.

    >>> to_alphabet("to be\né")
    'toĠbeĊÃ©'
    """
    return text.encode().decode("latin-1").translate(_TO_CHARACTERS)


def from_alphabet(token: str) -> bytes:
    """The bytes that a token of a byte-level file stands for; what is not in the alphabet stands for itself.

    >>> from_alphabet("toĠbe"), from_alphabet("中")
    (b'to be', b'\\xe4\\xb8\\xad')
    """
    try:
        return bytes([_TO_BYTE[character] for character in token])
    except KeyError:
        return token.encode()


def assemble(
    kind: Kind, tokens: Iterable[str], merges: Sequence[tuple[str, str]] = ()
) -> tokenizers.Tokenizer:
    """Put a byte-level tokenizer together.

    Args:
        kind: which pipeline.
        tokens: those after the first 257, in the byte alphabet, in the order of their ids.
        merges: the pairs to join, first learnt first.
    """
    vocabulary = {token: number for number, token in enumerate((*BYTE_ALPHABET, END_OF_TEXT, *tokens))}
    # ignore_merges takes a word that is itself in the vocabulary as it is: a character, without merges for its bytes
    made = tokenizers.Tokenizer(models.BPE(vocabulary, list(merges), ignore_merges=kind == "chars"))
    bytes_to_alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind == "bytes":
        made.pre_tokenizer = bytes_to_alphabet
    else:
        cut = pre_tokenizers.Split(Regex(PATTERN if kind == "bpe" else r"[\s\S]"), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_to_alphabet])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return made


def recognise(document: dict[str, Any]) -> Kind | None:
    """Which of the three kinds a parsed ``tokenizer.json`` is, by its pipeline; ``None`` for another maker's.

    >>> recognise(json.loads(assemble("chars", [to_alphabet("é")]).to_str()))
    'chars'
    """
    vocabulary = document["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        return None
    if [vocabulary.get(token) for token in (*BYTE_ALPHABET, END_OF_TEXT)] != list(range(FIRST_FREE)):
        return None
    vocabulary = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    if list(vocabulary.values()) != list(range(len(vocabulary))):
        return None
    merges = document["model"].get("merges")
    kinds: tuple[Kind, ...] = ("bpe", "bytes", "chars")
    for kind in kinds:
        empty = json.loads(assemble(kind, ()).to_str())
        ours = {**empty, "model": {**empty["model"], "vocab": vocabulary, "merges": merges}}
        if document == ours and _fits(kind, added=list(vocabulary)[FIRST_FREE:], merges=merges):
            return kind
    return None


def _fits(kind: Kind, added: list[str], merges: object) -> bool:
    if kind == "bpe":
        return True
    if kind == "bytes":
        return not added and not merges
    return not merges and all(len(from_alphabet(token).decode(errors="ignore")) == 1 for token in added)
