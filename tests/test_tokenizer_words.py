"""Words: nothing lost, two regular expression engines agree, and texts may be cut before white space."""

import string

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from tokenizers import Regex, pre_tokenizers

from steepest.tokenizer.words import LONGEST, PATTERN, REACH, SYMBOL_BLOCKS, words, words_by_chunk

SPACES = " \t\n\r\x0b\x0c"
# white space, digits and symbols as often as letters, so that every branch of the pattern meets every other
knotty = st.text(st.sampled_from(" \t\n\r\x0b\x0cab'_-.09é中’\u00a0\u3000😀\x00\x1c\x85"), max_size=40)
texts = st.one_of(st.text(), knotty, st.text(string.printable))

twin = pre_tokenizers.Split(Regex(PATTERN), "isolated")


def words_by_tokenizers(text: str) -> list[str]:
    return [word for word, _ in twin.pre_tokenize_str(text)]


@given(texts)
@example("")
@example(" " * 65 + "x")
@example(" " * 1000 + "\n" * 1000)
def test_words_joined_are_the_text_and_each_is_a_word_on_its_own(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(word) == [word] for word in words(text))
    assert max(map(len, words(text)), default=0) <= LONGEST + 1


@given(texts)
@example(" " * 200 + "x" * 200 + "\r\n\r\n" * 50 + "1" * 200 + "-" * 200 + " x")
def test_python_and_tokenizers_cut_the_same_words(text: str) -> None:
    assert words(text) == words_by_tokenizers(text)


def test_they_agree_at_every_edge_of_the_character_classes() -> None:
    edges = {*range(0x250), *range(0xD800 - 9, 0xD800), *range(0xE000, 0xE000 + 9), 0x10FFFF}
    edges |= {code for block in SYMBOL_BLOCKS for edge in block for code in range(edge - 2, edge + 3)}
    edges |= set(range(0x250, 0xD800, 61)) | set(range(0xE000, 0x110000, 997))
    for context in ("a{}b {}1{}", "{}{} {}\n{}-"):
        text = "".join(context.replace("{}", chr(code)) for code in sorted(edges))
        assert words(text) == words_by_tokenizers(text)


@given(knotty.filter(lambda text: text[-1:] not in SPACES), st.sampled_from(SPACES), knotty)
def test_a_text_may_be_cut_before_white_space(before: str, space: str, after: str) -> None:
    assert words(before + space + after) == words(before) + words(space + after)


@given(st.lists(st.sampled_from([" ", "ab", "\n", "7", "--", "x" * 70, " " * 70, "é"]), max_size=400))
def test_chunks_hold_the_same_words(parts: list[str]) -> None:
    text = "".join(parts)
    assert [word for chunk in words_by_chunk(text, size=3 * REACH) for word in chunk] == words(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world's end", ["Hello", ",", " world", "'s", " end"]),
        ("1234567 12", ["123", "456", "7", " 12"]),
        ("def f(x):\n    return _y\n\n", ["def", " f", "(x", "):", "\n   ", " return", " _", "y", "\n\n"]),
        ("a  b\tc\t\td", ["a", " ", " b", "\tc", "\t\t", "d"]),
        ("x = 'naïve' # 日本語。", ["x", " =", " '", "naïve", "'", " #", " 日本語", "。"]),
    ],
)
def test_examples(text: str, expected: list[str]) -> None:
    assert words(text) == expected
