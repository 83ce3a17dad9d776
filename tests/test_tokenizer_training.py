"""Training: every merge is a most frequent pair, the choice of vocabulary, and what is refused."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.config import build
from steepest.errors import ConfigError, TokenizerError
from steepest.tokenizer import (
    Tokenizer,
    TokenizerConfig,
    choose_vocab_size,
    make_tokenizer,
    train_bpe,
)
from steepest.tokenizer.bpe import sample_evenly, train_up_to
from steepest.tokenizer.byte_level import to_alphabet
from steepest.tokenizer.words import words

TEXT = Path(json.decoder.__file__).read_text() + "naïve 日本語 日本 — 😀😀 " * 20
N_BYTES = len(TEXT.encode())


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.to_json())["model"]["merges"]]


def join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def test_every_merge_joins_a_most_frequent_pair() -> None:
    """The definition of byte pair encoding, replayed slowly."""
    corpus = {word: list(to_alphabet(word)) for word in words(TEXT)}
    times = Counter(words(TEXT))
    for merge in merges_of(train_bpe([TEXT], 257 + 120)):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in corpus.items():
            for pair in pairwise(parts):
                pairs[pair] += times[word]
        assert pairs[merge] == max(pairs.values()) >= 2
        corpus = {word: join(parts, merge) for word, parts in corpus.items()}


def test_encoding_is_the_merges_in_the_order_learnt() -> None:
    tokenizer = train_bpe([TEXT], 600)
    vocabulary: dict[str, int] = json.loads(tokenizer.to_json())["model"]["vocab"]
    for word in [*sorted(set(words(TEXT)))[::7], "unmet", " 日日本"]:
        parts = list(to_alphabet(word))
        for merge in merges_of(tokenizer):
            parts = join(parts, merge)
        assert tokenizer.encode(word).tolist() == [vocabulary[part] for part in parts]


def test_a_smaller_vocabulary_is_the_beginning_of_a_larger() -> None:
    small, large = (json.loads(train_bpe([TEXT], size).to_json())["model"]["vocab"] for size in (300, 500))
    assert small.items() <= large.items()
    assert len(small) == 300 and len(large) == 500


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_the_same_text_gives_the_same_tokenizer_in_every_process(parallel: str) -> None:
    program = (
        "import sys; from steepest.tokenizer import train_bpe;"
        "print(train_bpe([sys.stdin.read()], 700).fingerprint)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=TEXT,
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": parallel, "PYTHONUTF8": "1"},
    )
    assert run.stdout.strip() == train_bpe([TEXT], 700).fingerprint


def test_a_vocabulary_larger_than_the_text_supports_names_the_largest() -> None:
    with pytest.raises(TokenizerError, match=r"vocabulary of 50000; it supports (\d+) at most") as caught:
        train_bpe([TEXT], 50_000)
    assert "\n" not in str(caught.value)
    largest = int(str(caught.value).split("it supports ")[1].split()[0])
    assert train_bpe([TEXT], largest).vocab_size == largest
    with pytest.raises(TokenizerError):
        train_bpe([TEXT], largest + 1)


@pytest.mark.parametrize("texts", [[], [""], ["abcdefg"], ["x"]])
def test_text_without_a_repeated_pair_supports_the_bytes_alone(texts: list[str]) -> None:
    assert train_bpe(texts, 257).vocab_size == 257
    with pytest.raises(TokenizerError, match="supports 257 at most"):
        train_bpe(texts, 258)


def test_fewer_tokens_than_bytes_and_broken_text_are_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 257; got 256"):
        train_bpe([TEXT], 256)
    with pytest.raises(TokenizerError, match="put it into a list"):
        train_bpe(TEXT, 300)
    for kind in ("bpe", "chars"):
        with pytest.raises(TokenizerError, match="half of a surrogate pair"):
            make_tokenizer(TokenizerConfig(kind=kind), lambda: ["a\ud800"], 10**6)


@given(st.text(max_size=200))
def test_what_is_learnt_from_loses_nothing(text: str) -> None:
    tokenizer = train_up_to([text, text], 400)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("n_bytes", "size"),
    [(0, 257), (200_000, 257), (466_117, 512), (1_115_394, 1024), (5_578_809, 2048), (31_500_000, 4096)],
)
def test_the_vocabulary_grows_as_the_root_of_the_text(n_bytes: int, size: int) -> None:
    assert choose_vocab_size(n_bytes) == size
    assert choose_vocab_size(n_bytes, limit=1024) == min(size, 1024)


def test_however_much_text_ids_fit_into_two_bytes() -> None:
    assert choose_vocab_size(10**15) == 65_536


@pytest.mark.parametrize(
    ("config", "n_bytes", "kind", "size"),
    [
        ({}, 1000, "bytes", 257),
        ({}, 466_117, "bpe", 512),
        ({"vocab_limit": 300}, 466_117, "bpe", 300),
        ({"kind": "bpe"}, 1000, "bpe", 512),
        ({"vocab_size": 333}, 1000, "bpe", 333),
        ({"kind": "bpe", "vocab_size": 333}, N_BYTES, "bpe", 333),
        ({"kind": "bytes"}, 10**9, "bytes", 257),
        ({"kind": "chars"}, 10**9, "chars", 257 + 6),
    ],
)
def test_the_config_decides(config: dict[str, Any], n_bytes: int, kind: str, size: int) -> None:
    made = make_tokenizer(build(TokenizerConfig, config), lambda: [TEXT] * 4, n_bytes)
    assert (made.kind, made.vocab_size) == (kind, size)


def test_auto_takes_what_monotonous_text_supports() -> None:
    text = "ab" * 200_000
    made = make_tokenizer(TokenizerConfig(), lambda: [text], len(text))
    assert made.kind == "bpe" and 257 < made.vocab_size < 512
    assert len(made.encode(text)) < len(text) / 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 100}, "vocab_size is at least 257"),
        ({"kind": "bytes", "vocab_size": 512}, 'vocab_size 512 is for "bpe"; kind "bytes" has its own'),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_limit": 10}, "vocab_limit"),
        ({"vocabsize": 300}, 'unknown key "vocabsize"; did you mean "vocab_size"?'),
    ],
)
def test_a_config_that_cannot_be_meant(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(TokenizerConfig, config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_sample_is_spread_evenly_and_small_texts_are_taken_whole() -> None:
    documents = [f"{number:03} " * 1000 for number in range(1000)]
    sample = list(sample_evenly(documents, n_bytes=4_000_000, limit=400_000))
    assert 390_000 < sum(map(len, sample)) < 410_000
    places = [int(piece[:3]) for piece in sample]
    assert max(right - left for left, right in pairwise(places)) <= 11
    for n_bytes in (0, 4_000_000):
        assert "".join(sample_evenly(documents, n_bytes, limit=4_000_000)) == "".join(documents)
