"""Foreign tokenizers: a ``tokenizer.json`` made elsewhere, used as it is.

Three things are asked of it that the file does not say outright: which token ends a text, how many bytes of text
each token stands for, and how to write its text while it is being made. Truncation, padding and merge dropout,
which a file can carry and which would silently lose or change text, are switched off.
"""

import json
import re
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import AddedToken

from steepest.errors import TokenizerError
from steepest.tokenizer.byte_level import END_OF_TEXT, from_alphabet

ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<｜end▁of▁sentence｜>", "[SEP]")
"""Special tokens that end a text, looked for in this order."""


def parse(text: str, source: str) -> tokenizers.Tokenizer:
    """Read a ``tokenizer.json``, or raise a ``TokenizerError`` that says what is wrong with it.

    Args:
        text: its content.
        source: where it came from, for the message.
    """
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{source}: expected a tokenizer.json, but this is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise TokenizerError(
            f'{source}: expected a tokenizer.json, an object with a "model" as the tokenizers library saves it'
        )
    document |= {"truncation": None, "padding": None}
    if "dropout" in document["model"]:
        document["model"]["dropout"] = None
    try:
        made = tokenizers.Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises nothing more precise
        raise TokenizerError(f"{source}: the tokenizers library refuses it: {_first_line(error)}") from None
    if made.get_vocab_size() == 0:
        raise TokenizerError(f"{source}: this tokenizer.json has no tokens; train it first")
    made.encode_special_tokens = True  # written out in a text they are ordinary text
    return made


def encode_foreign(backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each text; no special tokens around it, and none recognised in it.

    A unigram model that holds a special token among its own pieces may still use it: that is the file's choice.
    """
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    except Exception as error:  # for example a word-level model without a token for unknown words
        raise TokenizerError(f"this tokenizer.json cannot encode the text: {_first_line(error)}") from None


def find_end_of_text(backend: tokenizers.Tokenizer) -> int:
    """The id of the special token that ends a text; ``<|endoftext|>`` is added if there is none."""
    special = {backend.id_to_token(number): number for number in _special(backend)}
    for name in ENDS_OF_TEXT:
        if name in special:
            return special[name]
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend.get_vocab(with_added_tokens=True)[END_OF_TEXT]


def bytes_of_tokens(backend: tokenizers.Tokenizer, vocab_size: int) -> list[bytes] | None:
    """What each id writes: nothing for special tokens and unused ids. ``None`` if the file is not byte-level."""
    decoder = json.loads(backend.to_str())["decoder"]
    if decoder is None or decoder["type"] != "ByteLevel":
        return None
    special = _special(backend)
    tokens = [None if number in special else backend.id_to_token(number) for number in range(vocab_size)]
    return [b"" if token is None else from_alphabet(token) for token in tokens]


def count_bytes(backend: tokenizers.Tokenizer, vocab_size: int) -> list[int]:
    """Bytes of text per token of a file that is not byte-level: what decoding gains by it after another token.

    A token for one byte (``<0xE4>``) counts one; special tokens and unused ids count nothing.
    """
    special = _special(backend)
    ordinary = {
        number: token
        for number in range(vocab_size)
        if number not in special and (token := backend.id_to_token(number)) is not None
    }
    counts = [0] * vocab_size
    before = [number for number, token in ordinary.items() if token.isalpha()][:1]
    alone = len(backend.decode(before).encode())
    texts = backend.decode_batch([[*before, number] for number in ordinary])
    for (number, token), text in zip(ordinary.items(), texts, strict=True):
        counts[number] = 1 if re.fullmatch("<0x[0-9A-F]{2}>", token) else max(0, len(text.encode()) - alone)
    return counts


def stream(backend: tokenizers.Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Text as it grows: what each id adds to the decoding of the ids before it.

    What an id adds may depend on its neighbour before, so the ids written last stay in the window, and only what
    goes beyond their own text is written. A character still cut in two decodes to U+FFFD and is held back.
    """
    window: list[int] = []
    written = 0  # ids of the window whose text is out
    for number in ids:
        window.append(number)
        old, text = backend.decode(window[:written]), backend.decode(window)
        if len(text) > len(old) and not text.endswith("\ufffd"):
            yield text[len(old) :]
            window, written = window[written:], len(window) - written
    if rest := backend.decode(window)[len(backend.decode(window[:written])) :]:
        yield rest


def _special(backend: tokenizers.Tokenizer) -> set[int]:
    return {number for number, token in backend.get_added_tokens_decoder().items() if token.special}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
