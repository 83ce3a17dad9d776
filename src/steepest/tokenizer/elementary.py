"""Elementary tokenizers: one token a byte, or one token a character. Nothing is learnt but the characters met."""

from collections.abc import Iterable

from steepest.errors import TokenizerError
from steepest.tokenizer.byte_level import assemble, to_alphabet
from steepest.tokenizer.tokenizer import Tokenizer


def bytes_tokenizer() -> Tokenizer:
    """One token a byte of UTF-8: the id is the byte, 256 ends a text.

    >>> bytes_tokenizer().encode("né").tolist()
    [110, 195, 169]
    """
    return Tokenizer(assemble("bytes", ()))


def chars_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One token a character met in ``texts``; any other character is written as its bytes, so nothing is lost.

    An ASCII character is its own byte, so the vocabulary is 257 and one for every other character met, in the
    order of their code points.

    >>> tokenizer = chars_tokenizer(["né", "…"])
    >>> tokenizer.encode("né…ü").tolist()
    [110, 257, 258, 195, 188]
    """
    met: set[str] = set()
    for text in texts:
        if not text.isascii():
            met.update(text)
    characters = sorted(character for character in met if ord(character) >= 128)
    try:
        return Tokenizer(assemble("chars", [to_alphabet(character) for character in characters]))
    except UnicodeEncodeError as error:
        raise TokenizerError(f"expected text, got half of a surrogate pair: {error}") from None
