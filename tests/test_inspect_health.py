"""``inspect health`` and ``inspect sensitivity``: what they say of a run, of a configuration, and of mistakes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from steepest import api
from steepest.cli import inspect_health, inspect_sensitivity  # noqa: F401
from steepest.cli.main import app
from steepest.errors import SteepestError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import make_text

    root = tmp_path_factory.mktemp("inspect")
    (root / "text.txt").write_text(make_text(1500))
    config = {
        "tokenizer": {"kind": "chars"},
        "model": {"depth": 2, "width": 32, "context": 32},
        "batches": {"batch_tokens": 256},
        "train": {"threads": 1, "evaluations": 0, "sample_tokens": 0, "steps": 12},
        "optim": {"lr": 1e-2},
    }
    api.train(root / "text.txt", name="a", runs=root / "runs", cache=root / "cache", config=config)
    return root


def said(*arguments: str, place: Path) -> str:
    runs = ["--runs", str(place / "runs")]
    done = CliRunner().invoke(
        app, ["inspect", *arguments, *runs], catch_exceptions=False, env={"COLUMNS": "80"}
    )
    assert done.exit_code == 0, done.output
    return done.output


def test_health_of_a_run(place: Path) -> None:
    picture = place / "health.png"
    out = said("health", "a", "--png", str(picture), "--cache", str(place / "cache"), place=place)
    assert "run a, weights of step 12" in out and "healthy: none of twelve" in out
    assert "first over last" in out and "Jacobian" in out and "…" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_health_of_a_configuration_on_random_tokens(place: Path) -> None:
    config = place / "config.toml"
    config.write_text(
        "[model]\ndepth = 3\nwidth = 32\ncontext = 16\nvocab_size = 64\n[batches]\nbatch_tokens = 128\n"
    )
    out = said("health", str(config), "--random", "--steps", "10", "--no-spectra", place=place)
    assert "3 layers x 32 wide, after 10 steps on random tokens" in out and "healthy" in out
    out = said(
        "health",
        str(config),
        "--random",
        "--steps",
        "10",
        "--no-spectra",
        "--set",
        "optim.lr=0.9",
        place=place,
    )
    assert "learning rate is too high" in out


def test_sensitivity_over_a_text(place: Path) -> None:
    picture = place / "sensitivity.png"
    out = said("sensitivity", "a", "--text", "The cat sat", "--at", "5", "--png", str(picture), place=place)
    assert "log-probability of 't', after token 5" in out
    rows = out.splitlines()
    assert rows[-2].split()[0] == "t" and picture.read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_named(place: Path) -> None:
    with pytest.raises(SteepestError, match="--at must be 0 to 2"):
        said("sensitivity", "a", "--text", "The", "--at", "7", place=place)
    with pytest.raises(SteepestError, match="a text of 1 to 32 tokens"):
        said("sensitivity", "a", "--text", "a" * 33, place=place)
    with pytest.raises(SteepestError, match="--set is for a configuration"):
        said("health", "a", "--set", "optim.lr=1", place=place)
