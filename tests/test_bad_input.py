"""Bad input: one clear line with what to do, exit status 2, and nothing changed on disk."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_text
from steepest import api
from steepest.errors import SteepestError

GOOD = make_text(400)
CASES: dict[str, tuple[bytes | str | None, list[str], str]] = {
    "missing": (None, [], "no such"),
    "empty": (b"", [], "empty"),
    "binary": (b"\x7fELF\x00\x00\x01" * 50, [], "binary|NUL|not text"),
    "invalid UTF-8": (GOOD.encode() + b"caf\xe9 au lait" + GOOD.encode(), [], rf"UTF-8.*{len(GOOD) + 3}"),
    "shorter than one sequence": ("just a few words here", [], "shorter than one sequence|too few|too short"),
    "unknown key": (
        GOOD,
        ["optim.wieght_decay=0.1"],
        'unknown key "optim.wieght_decay"; did you mean "weight_decay"',
    ),
    "value out of range": (GOOD, ["optim.lr=-1"], '"optim.lr": input should be greater than 0; got -1'),
    "no such optimiser": (GOOD, ["optim.optimizer=adan"], "muon.*adamw"),
    "shape that cannot be": (GOOD, ["model.width=100"], "multiple of head_dim|head_dim"),
    "vocabulary too large": (
        GOOD,
        ["tokenizer.kind=bpe", "tokenizer.vocab_size=50000"],
        "vocabulary|vocab_size",
    ),
    "two budgets": (GOOD, ["train.tokens=100"], "give one of"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_on_disk(case: str, tmp_path: Path) -> None:
    content, overrides, message = CASES[case]
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SteepestError, match=message) as caught:
        api.train(text, steps=5, runs=tmp_path / "runs", cache=tmp_path / "cache", overrides=overrides)
    assert "\n" not in str(caught.value)
    left = [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts]
    assert left == before


def test_no_budget_at_all(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SteepestError, match="no budget: give one of --time"):
        api.train(text_file, runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


def test_a_budget_too_short_to_train_in(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SteepestError, match="too short"):
        api.train(text_file, time="0.01s", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


def test_a_taken_name_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    with pytest.raises(SteepestError, match='run name "a" is taken'):
        api.train(
            "does-not-even-exist.txt", steps=5, name="a", runs=tmp_path / "runs", cache=tmp_path / "cache"
        )


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"\x00\x01\x02" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "steepest", "train", str(text), "--time", "10 minutes"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(
        'steepest: a duration is written like "90s", "10m" or "1h30m"; got "10 minutes"'
    )
