"""``steepest law`` and the tables it reads: a published law in, its exponents and predictions out."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from steepest.cli import law, look  # noqa: F401  one command alone would have no name
from steepest.cli.main import app
from steepest.errors import DataError
from steepest.scaling import BESIROGLU, fit_bayes, read_law, read_table
from steepest.scaling.points import Points

N, D = (part.ravel() for part in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 3e11, 6)))
LOSS = BESIROGLU(N, D) * (1 + 0.002 * np.random.default_rng(0).normal(size=N.shape))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    rows = [f"{n:.0f},{d:.0f},{loss:.5f}" for n, d, loss in zip(N, D, LOSS, strict=True)]
    path.write_text("params,tokens,loss\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["law", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_json_has_the_published_exponents_and_the_predictions_asked_for(table: Path) -> None:
    said = json.loads(run(table, "--json", "--at", "70B,1.4T", "--compute", "5.76e23"))
    for key, truth in (("alpha", BESIROGLU.alpha), ("beta", BESIROGLU.beta)):
        assert said[key]["low"] <= truth <= said[key]["high"]
        assert said[key]["high"] - said[key]["low"] < 0.1
    chinchilla, best = said["predictions"]
    assert chinchilla["low95"] <= float(BESIROGLU(70e9, 1.4e12)) <= chinchilla["high95"]
    assert chinchilla["extrapolation"] == pytest.approx(70e9 * 1.4e12 / (N * D).max(), rel=1e-6)
    assert 6 * best["n"] * best["d"] == pytest.approx(5.76e23)
    assert "A" not in said and "size_term" not in said  # collinear with the exponents: never shown alone
    assert (table.parent / "runs-law.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_one_stands_in(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = table.parent / "runs"
    for k, (n, d, loss) in enumerate(zip(N[::3], D[::3], LOSS[::3], strict=True)):
        write_run(runs, f"run-{k:03d}", int(n), int(d), float(loss))
    monkeypatch.chdir(runs)
    run(".")
    assert (table.parent / "runs-law.png").stat().st_size > 10_000


def test_words(table: Path) -> None:
    told = run(table, "--no-picture", "--at", "1B,20B")
    assert "36 runs" in told and "Kaplan" in told and "Chinchilla" in told and "predicted" in told
    assert "mind" not in told
    assert list(table.parent.iterdir()) == [table]


def test_the_same_table_in_every_format_and_spelling(table: Path, tmp_path: Path) -> None:
    expected = read_table(table).points
    lines = tmp_path / "runs.jsonl"
    lines.write_text(
        "\n".join(
            json.dumps({"N": n, "Training Tokens": f"{d / 1e9:.9f}B", "val-loss": loss})
            for n, d, loss in zip(N.round(), D.round(), LOSS.round(5), strict=True)
        )
    )
    (tmp_path / "runs.tsv").write_text(table.read_text().replace(",", "\t"))
    (tmp_path / "flops.csv").write_text(
        "size;flops;bpb\n"
        + "\n".join(f"{n:.0f};{6 * n * d};{loss}" for n, d, loss in zip(N, D, LOSS, strict=True))
    )
    (tmp_path / "odd.csv").write_text(table.read_text().replace("params,tokens,loss", "a,b,c"))
    for path, columns in (
        (lines, None), (tmp_path / "runs.tsv", None), (tmp_path / "flops.csv", None),
        (tmp_path / "odd.csv", {"n": "a", "d": "B", "loss": "c"}),
    ):  # fmt: skip
        points = read_table(path, columns).points
        assert points.n == pytest.approx(expected.n, rel=1e-6)
        assert points.d == pytest.approx(expected.d, rel=1e-6)
        assert points.loss == pytest.approx(expected.loss, rel=1e-5)


def write_run(root: Path, name: str, n: int, tokens: int, loss: float, source: str = "a.txt") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(f'format = 1\n[data]\nsources = ["{source}"]\n')
    (folder / "plan.json").write_text(
        json.dumps({"matrix_parameters": n, "parameters": 2 * n, "tokens": tokens, "epochs": 2.0})
    )
    held_out = {"loss": loss, "bits_per_byte": loss / 2}
    (folder / "result.json").write_text(json.dumps({"tokens": tokens, "held_out": held_out}))


def test_folder_of_runs(tmp_path: Path) -> None:
    for i in range(5):
        write_run(tmp_path, f"run-{i}", 1000 * 2**i, 20000 * 2**i, 4.0 * 0.9**i)
    (tmp_path / "unfinished").mkdir()
    found = read_table(tmp_path)
    assert found.loss == "bits_per_byte" and len(found.points) == 5
    assert found.points.n.tolist() == [1000 * 2**i for i in range(5)]
    assert found.points.unique is not None and found.points.unique[0] == 10000  # two passes over half as many
    assert found.points.loss[1] == pytest.approx(1.8)


def test_runs_of_different_data_are_not_mixed(tmp_path: Path) -> None:
    write_run(tmp_path, "one", 1000, 20000, 4.0)
    write_run(tmp_path, "two", 1000, 20000, 4.0, source="b.txt")
    with pytest.raises(DataError, match=r"one learned a.txt, two b.txt"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("params,tokens,loss\n1e6,2e7,\n", "row 1: loss is missing"),
        ("params,tokens,loss\n1e6,2e7,4\n1e6,-2e7,3\n", "row 2: tokens is -2e\\+07"),
        ("params,tokens,loss\n1e6,many,3\n", 'tokens is "many"; expected a number'),
        ("params,loss\n1e6,3\n", "no column of tokens, or of compute; usual names are d, tokens"),
        ("tokens,loss\n1e6,3\n", "no column of parameters.*there are tokens, loss: name it with --parameters"),
        ("params,tokens,loss\n", "a header and no rows"),
        ("params,tokens,loss\n" + "1e6,2e7,4\n" * 3, "at least 4 runs of at least 2 sizes; got 3 runs of 1 size"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        run(path)
    assert list(tmp_path.iterdir()) == [path]


def test_other_bad_input(tmp_path: Path) -> None:
    for path, content, told in (
        (tmp_path / "no.csv", None, "no such table"),
        (tmp_path / "bad.jsonl", "{", "not JSON"),
        (tmp_path / "list.json", "[1, 2]", "every line of a table of runs is an object"),
        (tmp_path / "binary.csv", b"\xff\xfe\x00", "not a text file"),
    ):
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=told):
            read_table(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no finished run with a held-out loss"):
        read_table(tmp_path / "empty")


def test_what_would_break_the_law_is_said() -> None:
    n = 1e8 * 2.0 ** np.arange(6)
    same_ratio = read_law(fit_bayes(Points.of(n, 20 * n, BESIROGLU(n, 20 * n)))).caveats
    assert any("cannot be told apart" in one for one in same_ratio)
    spoiled = LOSS.copy()
    spoiled[10] *= 1.2
    worst = read_law(fit_bayes(Points.of(N, D, spoiled))).caveats[0]
    assert worst.startswith("row 11 lies")
    few_tokens = read_law(fit_bayes(Points.of(N, 2 * N, BESIROGLU(N, 2 * N)))).caveats
    assert any("fewer than 3 tokens a parameter" in one for one in few_tokens)


def test_the_exponent_of_isoflop_parabolas_is_told_where_the_table_has_budgets(tmp_path: Path) -> None:
    rows = ["n,d,loss"]
    for compute in (1e19, 1e20, 1e21):
        for n in BESIROGLU.optimal(compute)[0] * np.geomspace(0.3, 3, 7):
            rows.append(f"{n},{compute / 6 / n},{float(BESIROGLU(n, compute / 6 / n))}")
    path = tmp_path / "budgets.csv"
    path.write_text("\n".join(rows))
    assert json.loads(run(path, "--json", "--no-picture"))["isoflop_exponent"] == pytest.approx(
        0.513, abs=0.01
    )
    assert "parabolas through the budgets of the table: best N ~ C^0.51" in run(path, "--no-picture")
