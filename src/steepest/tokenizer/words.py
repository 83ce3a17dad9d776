"""Words: how a text is cut before byte pair encoding, which then joins bytes inside a word only.

A word is one of these, the first that fits, each as long as it can be:

    a run of letters, with at most one symbol, space or tab before it     " tree"  "_name"  "(x"  "'s"
    up to three digits, with at most one space before them               " 199"  "2"
    a run of symbols, with at most one space before it                    " =="  "..."
    white space, leaving a last space to what follows it                  "\\n   " before " return"

The rule is GPT-4's (OpenAI's ``cl100k_base`` in tiktoken) with three changes. Runs are at most 64 characters
long, so that no text is slow. White space never follows anything else inside a word, so that a text may be cut
before any white space that follows a character of another kind, and the parts encoded on their own. And what is
a letter is said by code points alone: outside ASCII, everything but the blocks of ``SYMBOL_BLOCKS``. One and the
same pattern therefore means the same to Python's ``re`` and to the engine of ``tokenizers``, whatever version of
Unicode either knows; ``tests/test_tokenizer_words.py`` holds the two together.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2, for the idea.
"""

import re
from collections.abc import Iterator

LONGEST = 64
"""Characters in the longest run."""

REACH = LONGEST + 4
"""Where a word ends depends on no more than this many characters from its beginning."""

SYMBOL_BLOCKS = (
    (0x0080, 0x00A9),  # controls, Latin punctuation and signs, around the letters ª µ º
    (0x00AB, 0x00B4),
    (0x00B6, 0x00B9),
    (0x00BB, 0x00BF),
    (0x00D7, 0x00D7),  # times
    (0x00F7, 0x00F7),  # divided by
    (0x2000, 0x206F),  # general punctuation, spaces, joiners
    (0x20A0, 0x20CF),  # currencies
    (0x2190, 0x2BFF),  # arrows, mathematics, box drawing, shapes
    (0x2E00, 0x2E7F),  # more punctuation
    (0x3000, 0x3004),  # Chinese and Japanese punctuation, around the letters 々 〆 〇
    (0x3008, 0x303F),
    (0xFF00, 0xFF0F),  # the same at full width, around digits and letters
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
    (0x1F000, 0x1FAFF),  # emoji
)
"""Code points beyond ASCII that are symbols; all others beyond ASCII count as letters."""

_BLOCKS = "".join(f"{chr(first)}-{chr(last)}" for first, last in SYMBOL_BLOCKS)
_SPACE = r" \t\n\x0b\x0c\r"
_SYMBOL = r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f" + _BLOCKS
_LETTER = r"^\x00-@\[-`{-\x7f" + _BLOCKS

PATTERN = (
    rf"[ \t\x0b\x0c{_SYMBOL}]?[{_LETTER}]{{1,{LONGEST}}}"
    rf"| ?[0-9]{{1,3}}"
    rf"| ?[{_SYMBOL}]{{1,{LONGEST}}}"
    rf"|[{_SPACE}]{{1,{LONGEST}}}(?= [^{_SPACE}])"
    rf"|[{_SPACE}]{{1,{LONGEST}}}"
)
"""The rule above as one regular expression; every character of a text falls into exactly one match."""

_find = re.compile(PATTERN).findall


def words(text: str) -> list[str]:
    r"""Cut a text into words; joined again they are the text.

    >>> words("if x_1 == 2024:\n    return 'naïve'")
    ['if', ' x', '_', '1', ' ==', ' 202', '4', ':', '\n   ', ' return', " '", 'naïve', "'"]
    """
    return _find(text)


def words_by_chunk(text: str, size: int = 1 << 16) -> Iterator[list[str]]:
    """The same words in lists of about ``size`` characters, so that a long text needs little memory.

    The end of a chunk may cut a word in two: the last words, within ``REACH`` of it, are left to the next chunk.

    Args:
        text: any text.
        size: characters looked at at a time, at least ``3 * REACH``.

    >>> [len(chunk) for chunk in words_by_chunk("one two " * 100, size=300)]
    [58, 58, 58, 27]
    """
    start = 0
    while start < len(text):
        found = _find(text[start : start + size])
        start += size
        if start < len(text):
            left = 0
            while left < REACH:
                left += len(found.pop())
            start -= left
        yield found
