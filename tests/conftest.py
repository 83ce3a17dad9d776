"""Shared by all tests: one thread, a private cache, small text."""

import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("STEEPEST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "and",
    "then",
    "it",
    "was",
    "very",
    "quite",
    "red",
    "blue",
    "old",
    "new",
    "house",
    "river",
]


def make_text(n_sentences: int, seed: int = 0) -> str:
    """Sentences with some structure to learn, the same for the same seed."""
    dice = random.Random(seed)
    return "".join(
        " ".join(dice.choices(WORDS, k=dice.randint(4, 9))).capitalize() + ".\n" for _ in range(n_sentences)
    )


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(make_text(1500))
    return path
