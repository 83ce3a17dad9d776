"""Fast encoders for the tokenizers made here. Each gives exactly the ids of ``tokenizers``, only sooner.

Byte pair encoding joins bytes inside one word only (``words.py``), and a language repeats its words: 40 MB of
a dictionary are 9.9 million words, of which 0.34 million differ. So each distinct word is encoded once, and a
text is one look-up a word,

    ids(text) = concatenate(table[word] for word in words(text)).

For bytes an id is the byte; for characters it is a table look-up by code point. Both are one numpy call.
"""

from array import array
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from steepest.tokenizer.byte_level import FIRST_FREE, to_alphabet
from steepest.tokenizer.words import words_by_chunk

Ids = npt.NDArray[np.int32]


def encode_bytes(text: str) -> Ids:
    """UTF-8 bytes as ids.

    >>> encode_bytes("né").tolist()
    [110, 195, 169]
    """
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


class CharacterEncoder:
    """Characters to ids; one that has no id of its own becomes its UTF-8 bytes.

    >>> CharacterEncoder("é")("né…").tolist()
    [110, 257, 226, 128, 166]
    """

    def __init__(self, characters: Sequence[str]) -> None:
        """Number ``characters`` from 257; ASCII needs no numbers, it is its own byte."""
        self._ids = np.full(0x110000, -1, np.int32)
        self._ids[:128] = range(128)
        self._ids[[ord(character) for character in characters]] = FIRST_FREE + np.arange(len(characters))

    def __call__(self, text: str) -> Ids:
        """Encode one text."""
        if text.isascii():
            return encode_bytes(text)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = self._ids[codes]
        unknown = ids < 0
        if not unknown.any():
            return ids
        n_bytes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
        spelled = np.repeat(unknown, np.where(unknown, n_bytes, 1))
        result = np.empty(len(spelled), np.int32)
        result[~spelled] = ids[~unknown]
        result[spelled] = encode_bytes(codes[unknown].tobytes().decode("utf-32-le"))
        return result


class WordEncoder:
    """Texts to ids through a table of words already met.

    >>> encode = WordEncoder(lambda word: [ord(character) for character in word])
    >>> encode("to be").tolist()  # 288 is "Ġ"
    [116, 111, 288, 98, 101]

    Args:
        encode_word: ids of one word, written in the byte alphabet.
        limit: words in the table, about 200 bytes each; when it is full, those not met lately go.
    """

    def __init__(self, encode_word: Callable[[str], list[int]], limit: int = 1 << 18) -> None:
        self._table = _Table(encode_word, limit)

    def __call__(self, text: str) -> Ids:
        """Encode one text."""
        look_up = self._table.__getitem__
        chunks = [b"".join(map(look_up, found)) for found in words_by_chunk(text)]
        return np.frombuffer(
            bytearray().join(chunks), np.int32
        )  # a bytearray, so that the array can be written


class _Table(dict[str, bytes]):
    """Word -> its ids as int32 in memory, made when first asked for; joining bytes is the fastest way to many ids.

    When half of the limit is reached, the words become the old ones and the table begins again: words still in
    use move over when asked for, the others go when it is full the next time.
    """

    def __init__(self, encode_word: Callable[[str], list[int]], limit: int) -> None:
        self.encode_word, self.half = encode_word, max(1, limit // 2)
        self.old: dict[str, bytes] = {}

    def __missing__(self, word: str) -> bytes:
        if len(self) >= self.half:
            self.old = dict(self)
            self.clear()
        ids = self.old.get(word)
        if ids is None:
            ids = array("i", self.encode_word(to_alphabet(word))).tobytes()
        self[word] = ids
        return ids
