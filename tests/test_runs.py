"""The run folder: names, broken lines, locks, newer formats."""

import subprocess
import sys
from pathlib import Path

import pytest

from steepest.errors import RunError
from steepest.runs import RunFolder, create_run, list_runs, open_run, summarize_run


def made(root: Path, name: str) -> RunFolder:
    run = create_run(root, name)
    run.config.write_text('format = 1\n\n[data]\nsources = ["x.txt"]\n\n[model]\ndepth = 2\nwidth = 64\n')
    return run


def test_names_count_up_and_are_refused_when_taken(tmp_path: Path) -> None:
    assert [create_run(tmp_path, None).name for _ in range(2)] == ["run-001", "run-002"]
    with pytest.raises(RunError, match=r'"run-001" is taken.*--name.*steepest resume run-001'):
        create_run(tmp_path, "run-001")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="a run name has letters"):
        create_run(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_last_line_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    run.append_metrics({"step": 1}, {"step": 2})
    with run.metrics.open("a") as file:
        file.write('{"step": 3, "lo')
    run.append_metrics({"step": 4})
    assert [record["step"] for record in run.read_metrics()] == [1, 2, 4]
    assert [record["step"] for record in run.truncate_metrics(2)] == [4]
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_lock_keeps_a_second_process_out(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    code = (
        "import sys; from pathlib import Path; from steepest.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('in')"
    )
    with run.lock():
        done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
        assert "another process" in done.stderr
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
    assert done.stdout == "in\n"


def test_opening_names_what_there_is_and_refuses_newer_formats(tmp_path: Path) -> None:
    made(tmp_path, "first")
    with pytest.raises(RunError, match='no run "frist"; known runs: first'):
        open_run("frist", tmp_path)
    made(tmp_path, "late").config.write_text("format = 99\n")
    with pytest.raises(RunError, match=r"made by a newer steepest \(run format 99.*upgrade"):
        open_run("late", tmp_path)
    made(tmp_path, "foreign").config.write_text("[data]\n")
    with pytest.raises(RunError, match="no format line"):
        open_run("foreign", tmp_path)


def test_summary_of_a_half_written_run(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    run.append_metrics({"step": 5, "tokens": 50, "seconds": 1.0, "evaluation": {"bits_per_byte": 2.5}})
    run.append_metrics({"step": 7, "tokens": 70, "seconds": 1.5})
    row = summarize_run(list_runs(tmp_path)[0])
    assert (row["state"], row["step"], row["bits_per_byte"], row["depth"]) == ("unfinished", 7, 2.5, 2)
    run.result.write_text("{broken")
    assert summarize_run(run)["state"] == "unfinished"
