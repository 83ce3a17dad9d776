"""The command line: every command has help and a page; errors are one line and exit status 2."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.api.settings import absolute
from steepest.cli.main import register

ROOT = Path(__file__).parent.parent


def command_names() -> list[str]:
    import typer

    return sorted(typer.main.get_command(register()).commands)  # type: ignore[attr-defined]


def steepest(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "steepest", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", command_names())
def test_command_has_help_with_an_example_and_a_page(name: str) -> None:
    import typer

    command = typer.main.get_command(register()).commands[name]  # type: ignore[attr-defined]
    assert command.help and "Example: steepest" in command.help
    assert all(getattr(parameter, "help", "argument") for parameter in command.params)


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    runpy_globals = runpy.run_path(str(ROOT / "dev" / "write_commands.py"))
    assert (ROOT / "docs" / "commands.md").read_text() == runpy_globals["page"](), (
        "run python dev/write_commands.py"
    )


def test_help_does_not_import_torch() -> None:
    code = "import sys; from steepest.cli.main import main\ntry: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("False")
    assert "train" in done.stdout


def test_error_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = steepest("train", "missing.txt", "--time", "1m", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("steepest: ") and done.stderr.count("\n") == 1
    assert "missing.txt" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = steepest("--debug", "train", "missing.txt", "--time", "1m", cwd=tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_training_on_everything_holds_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 200)
    done = steepest(
        "train", "text.txt", "--steps", "3", "--depth", "1", "--width", "64", "--context", "32",
        "--batch-tokens", "64", "--set", "data.validation=0", "--cache", "cache", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was held out" in done.stdout


def test_columns_may_be_called_by_number(tmp_path: Path) -> None:
    from labelled_texts import lexical_rows

    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for label, text in lexical_rows(60)))
    done = steepest(
        "train", str(path), "--objective", "classification", "--label-column", "2", "--text-column", "1", "--steps", "2",
        "--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--depth", "1", "--width", "32",
        "--set", "train.threads=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_home_is_expanded_before_a_path_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert absolute(["~/text.txt", "-", "hf:a/b"]) == ["/somewhere/text.txt", "-", "hf:a/b"]
