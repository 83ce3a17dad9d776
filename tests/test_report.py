"""The report: what it says is what the files say; nothing outside is loaded; nothing a file holds can cost the page."""

import base64
import io
import json
import math
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from report_runs import STEPS, in_bits, law, write_run
from steepest.cli.main import app
from steepest.report import read_run, write_comparison, write_report
from steepest.report.charts import loss_figure, smoothed
from steepest.report.facts import outcome, reached
from steepest.report.heat_map import BOUND, VIRIDIS, gradient_flow_figure, png
from steepest.report.ladder_chart import Rung, ladder_figure, ladder_points
from steepest.report.plot import Axis, Plot, thin
from steepest.runs import RunFolder
from steepest.scaling.early import as_fresh
from steepest.scaling.recorded import value_of

VOID = ("meta", "link", "input", "br")


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects what is asked for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words_of(page: str) -> str:
    return " ".join(" ".join(Reader(page).words).split())


def pixels(svg: str, name: str) -> list[tuple[float, float]]:
    path = re.search(rf'data-name="{name}" d="([^"]*)"', svg)
    assert path
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path[1])]


def value_at(svg: str, axis: str, pixel: float) -> float:
    """What a pixel means, from the limits that the page's script reads."""
    limits = re.search(rf'data-{axis}="([^"]*)"', svg)
    assert limits
    low, high, start, end = map(float, limits[1].split(",")[:4])
    return low + (pixel - start) / (end - start) * (high - low)


def test_the_page_says_what_the_files_say(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    page = write_report(folder).read_text()
    said = words_of(page)
    assert f"{in_bits(2.6):.3f} bits per byte in 1m00s" in said
    assert "Inside the predicted interval (1.400 to 1.600)." in said
    assert "Asked: 1m00s of training on corpus.txt." in said
    for expected in ("Held-out loss is 0.3 above training loss; use more text.", "step skipped", "horizon fixed",
                     "410.0 MB", "6 layers x 96 wide", "Once <b>upon</b> a time", "6 points of 2 sizes", "2x time 1.420 1.300 to 1.500",
                     f"steepest train --config {folder.path}/run.toml --steps {STEPS}"):  # fmt: skip
        assert expected in said, expected
    assert "1 step skipped" in said and "could not be drawn" not in said
    titles = re.findall(r"<h3>([^<]*)", page)
    assert titles == ["Loss, in bits per byte", "Accuracy", "Gap between held-out and training loss", "Learning rate",
                      "Gradient norm", "Speed, tokens a second", "Memory", "Update over weight, a step",
                      "Ladder and law", "Gradient flow, depth by step"]  # fmt: skip


def test_nothing_outside_is_loaded_and_every_picture_has_words(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path)).read_text()
    reader = Reader(page)
    for tag, attributes in reader.tags:
        for key in ("src", "href"):
            reference = attributes.get(key) or "data:"
            assert reference.startswith("data:"), (tag, reference)
        if tag == "svg" and attributes.get("aria-hidden") is None:
            assert attributes["role"] == "img" and len(attributes["aria-label"] or "") > 10
    assert "@import" not in page and "url(" not in page.replace("url(#clip-", "")
    assert len(page) < 1_000_000
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) or {i for i in ids if ids.count(i) > 1} <= {
        i for i in ids if i and "clip" in i
    }


def test_lines_stand_where_their_values_are(tmp_path: Path) -> None:
    figure = loss_figure(read_run(write_run(tmp_path)))
    assert figure is not None
    for view, unit in (("time", lambda step: 5 + 0.25 * step), ("tokens", lambda step: 1024 * step)):
        svg = figure.views[view]
        drawn = [(value_at(svg, "x", x), value_at(svg, "y", y)) for x, y in pixels(svg, "held out")]
        expected = [(unit(step), in_bits(2.6 + 3 * math.exp(-step / 40))) for step in range(0, STEPS + 1, 20)]
        assert len(drawn) == len(expected)
        assert "forecast 1.52" in svg
        for (x, y), (x_true, y_true) in zip(drawn, expected, strict=True):
            assert x == pytest.approx(x_true, abs=0.002 * unit(STEPS)) and y == pytest.approx(
                y_true, abs=0.005
            )


def test_logarithmic_axes() -> None:
    plot = Plot(200, 100, Axis(1, 10_000, log=True), Axis(0.1, 10, log=True))
    assert plot.to_x(100) == pytest.approx((plot.left + 200 - plot.right) / 2)
    assert plot.to_y(1) == pytest.approx((plot.top + 100 - plot.bottom) / 2)


def test_thinning_keeps_the_extremes() -> None:
    dice = random.Random(0)
    points = [(float(i), dice.random()) for i in range(100_000)]
    kept = thin(points, 800)
    assert len(kept) <= 810 and kept == sorted(kept)
    assert max(y for _, y in kept) == max(y for _, y in points)
    assert min(y for _, y in kept) == min(y for _, y in points)


def test_smoothing_is_the_weighted_mean_of_the_past() -> None:
    dice = random.Random(1)
    points = [(float(i), dice.random()) for i in range(300)]
    keep = 1 - 1 / (0.02 * 300)
    weights = [keep ** (200 - i) for i in range(201)]
    mean = sum(w * y for w, (_, y) in zip(weights, points, strict=False)) / sum(weights)
    assert dict(smoothed(points))[200.0] == pytest.approx(mean)


def test_png_is_read_back_pixel_by_pixel() -> None:
    from matplotlib.image import imread

    dice = random.Random(2)
    pixels = [
        [(dice.randrange(256), dice.randrange(256), dice.randrange(256)) for _ in range(7)] for _ in range(5)
    ]
    read = imread(io.BytesIO(png(pixels)), format="png")
    assert [[tuple(round(255 * v) for v in pixel[:3]) for pixel in row] for row in read.tolist()] == pixels


def test_the_heat_map_shows_the_ratio_to_the_end_of_the_stack(tmp_path: Path) -> None:
    from matplotlib.image import imread

    figure = gradient_flow_figure(read_run(write_run(tmp_path)))
    assert figure is not None and "was 4 times that after the last" in figure.caption
    href = re.search(r'href="data:image/png;base64,([^"]*)"', figure.views[""])
    assert href
    cells = (255 * imread(io.BytesIO(base64.b64decode(href[1])), format="png")[..., :3]).round().astype(int)
    assert cells.shape == (7, 8, 3)  # six blocks and the end, eight probes; the end on top
    assert tuple(cells[0, 0]) == VIRIDIS[4]
    place = (0.5 + 0.5 * math.log(4) / math.log(BOUND)) * 8
    low, high = VIRIDIS[int(place)], VIRIDIS[int(place) + 1]
    expected = [a + (place - int(place)) * (b - a) for a, b in zip(low, high, strict=True)]
    assert cells[-1, 3].tolist() == pytest.approx(expected, abs=1)


def test_ladder_and_law_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path))
    assert ladder_points(run)[0] == Rung(1e5, 1e5, law(1e5, 1e5), passed=False)
    figure = ladder_figure(run)
    assert figure is not None and figure.views[""].count("hollow") == 2
    assert value_of(run.plan["law"], 3e5, 4e5) == pytest.approx(law(3e5, 4e5))


def test_the_law_is_drawn_for_text_that_is_read_again(tmp_path: Path) -> None:
    """The line of the run's own size ends at what its repeats are worth, not where new text would have led."""
    folder = write_run(tmp_path)
    plan = json.loads(folder.plan.read_text())
    recorded = plan["law"]
    worth = [float(value) for value in as_fresh(6e5, 2e5, 2.5e4)]
    assert value_of(recorded, 6e5, 2e5, 2.5e4) == pytest.approx(law(*worth))
    ends = []
    for epochs in (1.0, 8.0):
        folder.write_json(folder.plan, plan | {"epochs": epochs})
        figure = ladder_figure(read_run(folder))
        assert figure is not None
        line = re.search(r"<[^>]*c0 dashed[^>]*>", figure.views[""])
        assert line
        ends.append(float(re.findall(r"[-\d.]+", re.search(r'(?:points|d)="([^"]*)"', line[0])[1])[-1]))  # type: ignore[index]
    assert ends[1] < ends[0] - 3  # pixels from the top: a higher loss


@pytest.mark.parametrize(
    ("value", "said", "colour"), [(1.5, "inside", "good"), (1.3, "better", "good"), (1.7, "worse", "bad")]
)
def test_the_prediction_is_scored(tmp_path: Path, value: float, said: str, colour: str) -> None:
    folder = write_run(tmp_path)
    result = json.loads(folder.result.read_text())
    result["held_out"]["bits_per_byte"] = value
    folder.write_json(folder.result, result)
    found = outcome(read_run(folder))
    assert found is not None and found[0].startswith(said) and found[1] == colour


def test_a_run_under_way_gives_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.result.unlink()
    with folder.metrics.open("a") as file:
        file.write('{"step": 201, "los')
    run = read_run(folder)
    assert reached(run) == ("bits_per_byte", pytest.approx(in_bits(2.6 + 3 * math.exp(-5))))
    said = words_of(write_report(folder).read_text())
    assert (
        "unfinished" in said
        and f"steepest resume {folder.path}" in said
        and "1 broken line passed over" in said
    )


def test_text_is_never_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path, name="a-run")
    evil = '<script>alert("x")</script>"onload="y'
    result = json.loads(folder.result.read_text())
    result |= {"sample": evil, "target_metric": evil, "held_out": {evil: 1.0}}
    folder.write_json(folder.result, result)
    folder.append_event(evil, step=1, reason=evil)
    folder.append_event("verdict", kind=evil, layer=evil, sentence=evil)
    page = write_report(folder).read_text()
    assert evil not in page and page.count("<script>") == 1
    Reader(page)


def test_broken_files_never_cost_the_page(tmp_path: Path) -> None:
    """Files cut anywhere, missing, swapped for garbage; values of any other type: always a whole page."""
    dice = random.Random(3)
    source = write_run(tmp_path / "whole")
    names = ("run.toml", "plan.json", "metrics.jsonl", "events.jsonl", "result.json")
    for trial in range(25):
        folder = RunFolder(tmp_path / f"broken-{trial}")
        shutil.copytree(source.path, folder.path)
        for name in dice.sample(names, dice.randint(1, 3)):
            damage(folder.path / name, dice)
        Reader(write_report(folder).read_text())
    empty = RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    assert "nothing measured" in words_of(write_report(empty).read_text())


def damage(path: Path, dice: random.Random) -> None:
    whole = path.read_bytes()
    how = dice.choice(["cut", "remove", "bytes", "types", "types"])
    if how == "cut":
        path.write_bytes(whole[: dice.randrange(len(whole))])
    elif how == "remove":
        path.unlink()
    elif how == "bytes":
        path.write_bytes(dice.randbytes(200))
    elif path.suffix == ".json":
        path.write_text(json.dumps(confused(json.loads(whole), dice)))
    elif path.suffix == ".jsonl":
        lines = [json.dumps(confused(json.loads(line), dice)) for line in whole.splitlines()]
        path.write_text("\n".join(lines))


def confused(value: Any, dice: random.Random) -> Any:
    """The same value with some parts of another type."""
    if dice.random() < 0.1:
        return dice.choice(
            [None, "text", [], {}, float("nan"), float("inf"), -1, 0, 1e300, -1e-300, True, [[1]], {"a": {}}]
        )
    if isinstance(value, dict):
        return {key: confused(one, dice) for key, one in value.items()}
    return [confused(one, dice) for one in value] if isinstance(value, list) else value


def test_comparison_names_the_best_and_what_differs(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path, name="good"), write_run(tmp_path, name="bad", lr=0.1, shift=0.5)
    page = write_comparison([bad, good], tmp_path / "comparison.html").read_text()
    said = words_of(page)
    assert "good reached 1.500 bits per byte" in said
    assert re.findall(r"<td><code>([^<]*)</code></td>(?:<td>([^<]*)</td>)*", page) == [("optim.lr", "0.003")]
    assert re.findall(r'class="right best">([^<]*)', page) == ["1.500"]
    assert [len(pixels(page, name)) for name in ("good", "bad")] == [STEPS // 20 + 1] * 2


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from steepest.cli import report  # noqa: F401
    from steepest.errors import RunError

    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs", name="a")
    write_run(tmp_path / "runs", name="b")
    done = CliRunner().invoke(app, ["report", "a"])
    assert done.output.startswith("runs/a/report.html (") and (tmp_path / "runs/a/report.html").is_file()
    assert CliRunner().invoke(app, ["report", "a", "b", "--out", "both.html"]).exit_code == 0
    assert "2 runs compared" in (tmp_path / "both.html").read_text()
    missing = CliRunner().invoke(app, ["report", "c"])
    assert isinstance(missing.exception, RunError) and "known runs: a, b" in str(missing.exception)


@pytest.mark.skipif(shutil.which("chromium-headless-shell") is None, reason="needs a headless Chromium")
def test_a_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path))
    done = subprocess.run(
        ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count('class="tip"') > 5  # the script ran to its end


def test_a_very_long_run_is_thinned_but_keeps_what_is_rare(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    line = '{"step": %d, "tokens": 1, "seconds": %d, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "verdict": "%s"}\n'
    with folder.metrics.open("a") as file:
        for i in range(300, 90_300):
            file.write(line % (i, i, "outlier" if i in (700, 50_001) else "ok"))
    run = read_run(folder)
    assert 20_000 <= len(run.steps) < 40_000 and run.steps[-1]["step"] == 90_299
    assert {700, 50_001} < {record["step"] for record in run.steps if record["verdict"] == "outlier"}
    assert len(run.evaluations) == STEPS // 20 + 1
    assert write_report(folder).stat().st_size < 1_000_000
