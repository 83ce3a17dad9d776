"""The tokenizer: text to ids and back.

Wraps a ``tokenizers.Tokenizer``, whose ``tokenizer.json`` is the only thing stored, so that any program that reads
Hugging Face files gives the same ids. For the kinds made here (bpe, bytes, chars) encoding and decoding are done
by faster code that is held to the library's answer, and

    decode(encode(text)) == text        for every text.

A special token written out in a text, such as ``<|endoftext|>``, is ordinary text here: only the program ends
texts, not what they contain.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models

from steepest.errors import StorageError, TokenizerError
from steepest.tokenizer import foreign
from steepest.tokenizer.byte_level import FIRST_FREE, from_alphabet, recognise
from steepest.tokenizer.encoders import CharacterEncoder, Ids, WordEncoder, encode_bytes


class Tokenizer:
    """Text to ids and back; immutable, and safe to share between threads and to send to processes.

    Attributes:
        kind: ``"bpe"``, ``"bytes"`` or ``"chars"`` if made here, ``"file"`` for a foreign ``tokenizer.json``.
        vocab_size: one more than the largest id.
        end_of_text: the id of ``<|endoftext|>``, or of the token that a foreign file ends texts with.
        fingerprint: SHA-256 of the canonical JSON; equal fingerprints mean equal ids.

    >>> from steepest.tokenizer import train_bpe
    >>> tokenizer = train_bpe(["she sells sea shells by the sea shore. " * 9], vocab_size=270)
    >>> tokenizer.decode(tokenizer.encode("she sees 🐚"))
    'she sees 🐚'
    >>> tokenizer.kind, tokenizer.vocab_size, tokenizer.end_of_text
    ('bpe', 270, 256)
    """

    kind: str
    vocab_size: int
    end_of_text: int
    fingerprint: str

    def __init__(self, backend: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        """Wrap a copy of a tokenizer of the ``tokenizers`` library.

        Args:
            backend: any.
            source: where it came from, for error messages.
        """
        self._backend = foreign.parse(backend.to_str(), source)
        self.end_of_text = foreign.find_end_of_text(self._backend)
        self._json = self._backend.to_str()
        document = json.loads(self._json)
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        self.kind = recognise(document) or "file"
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values())
        self._bytes = foreign.bytes_of_tokens(self._backend, self.vocab_size)
        self._encode = _encoder(self.kind, document["model"])

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a ``tokenizer.json``.

        Raises:
            TokenizerError: missing, not JSON, or not a tokenizer.
        """
        path = Path(path)
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            raise TokenizerError(f"{path}: no such tokenizer file") from None
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"{path}: expected a tokenizer.json, but this is not UTF-8: {error}"
            ) from None
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None

    @classmethod
    def from_json(cls, text: str, source: str = "tokenizer") -> Self:
        """Read the content of a ``tokenizer.json``; ``source`` names it in errors."""
        return cls(foreign.parse(text, source), source)

    def to_json(self) -> str:
        """The content of its ``tokenizer.json``."""
        return self._json

    def save(self, path: Path | str) -> None:
        """Write its ``tokenizer.json``."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._json, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path}: the tokenizer cannot be written: {error.strerror}") from None

    def encode(self, text: str) -> Ids:
        """Ids of a text, int32 ``[tokens]``.

        Raises:
            TokenizerError: the text holds half of a surrogate pair, which is no character.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of several texts, one array each."""
        for text in texts:
            _check(text)
        if self._encode is not None:
            return [self._encode(text) for text in texts]
        return [np.array(ids, np.int32) for ids in foreign.encode_foreign(self._backend, list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; special tokens write nothing, bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id outside ``0 .. vocab_size - 1``.
        """
        numbers = self._checked(ids)
        if self._bytes is None:
            return str(self._backend.decode(numbers))
        return b"".join([self._bytes[number] for number in numbers]).decode(errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text piece by piece, each as soon as its characters are whole; joined, the same as ``decode``.

        >>> from steepest.tokenizer import bytes_tokenizer
        >>> list(bytes_tokenizer().decode_stream([72, 105, 226, 128, 166, 33]))
        ['H', 'i', '…', '!']
        """
        if self._bytes is None:
            yield from foreign.stream(self._backend, (self._checked([number])[0] for number in ids))
            return
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for number in ids:
            if text := decoder.decode(self._bytes[self._checked([number])[0]]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes of text each id stands for, int32 ``[vocab_size]``; 0 for special tokens.

        Bits per byte divides by their sum: it is the number of bytes of the text for every tokenizer made here.

        >>> from steepest.tokenizer import bytes_tokenizer
        >>> bytes_tokenizer().token_bytes()[[97, 256]].tolist()
        [1, 0]
        """
        if self._bytes is None:
            return np.array(foreign.count_bytes(self._backend, self.vocab_size), np.int32)
        return np.array([len(written) for written in self._bytes], np.int32)

    def lossless(self, sample: str) -> bool:
        """Whether a text comes back as it was; a foreign file may lower its case or lose what it does not know.

        >>> from steepest.tokenizer import bytes_tokenizer
        >>> bytes_tokenizer().lossless("Ünïcode 😀")
        True
        """
        return self.decode(self.encode(sample)) == sample

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as its JSON."""
        return (type(self).from_json, (self._json,))

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"

    def _checked(self, ids: Iterable[int]) -> list[int]:
        numbers: list[int] = ids.tolist() if hasattr(ids, "tolist") else [int(number) for number in ids]
        if numbers and (min(numbers) < 0 or max(numbers) >= self.vocab_size):
            wrong = next(number for number in numbers if not 0 <= number < self.vocab_size)
            raise TokenizerError(
                f"expected ids from 0 to {self.vocab_size - 1} (the vocabulary); got {wrong}"
            )
        return numbers


def _encoder(kind: str, model: dict[str, Any]) -> Any:
    """The fast encoder of a kind made here; ``None`` for a foreign one."""
    if kind == "bytes":
        return encode_bytes
    if kind == "chars":
        added = sorted(model["vocab"], key=model["vocab"].__getitem__)[FIRST_FREE:]
        return CharacterEncoder([from_alphabet(token).decode() for token in added])
    if kind == "bpe":
        merges = [tuple(pair) for pair in model["merges"]]
        # every word is asked for once, so the model's own cache would only cost
        bpe = models.BPE(model["vocab"], merges, cache_capacity=0)
        return WordEncoder(lambda word: [token.id for token in bpe.tokenize(word)])
    return None


def _check(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"expected text; character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair "
            "and no character on its own; read the input as UTF-8"
        ) from None
