"""A plan survives its file, is carried out as it is, and is refused where its promise would not hold."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import make_text
from labelled_texts import lexical_rows, write_tsv
from steepest import api
from steepest.api.settings import Settings
from steepest.data import open_corpus
from steepest.errors import ConfigError, DataError, SteepestError
from steepest.planning import Circumstances, choose, plan_record, read_plan
from steepest.planning.choose import Promise
from steepest.planning.promise import promise
from steepest.train.kinds import kind_of

SMALL = (
    "tokenizer.kind=chars", "model.depth=1", "model.width=32", "model.context=32", "batches.batch_tokens=128",
    "train.device=cpu", "train.threads=1", "train.dtype=float32", "train.sample_tokens=0",
)  # fmt: skip


def silent(name: str, fields: dict[str, Any]) -> None:
    """Nothing."""


@pytest.fixture
def plan(tmp_path: Path, text_file: Path) -> Path:
    given = Settings(steps=3, overrides=SMALL).resolve([text_file])
    kind, given, examples = kind_of(given).prepare(given, tmp_path / "cache", silent)
    resolved, record = choose(given, examples, kind, Circumstances(time.monotonic()), silent)
    path = tmp_path / "plan.json"
    promised = {"prediction": {"value": 3.0, "low": 2.0, "high": 9.0, "low95": 1.0, "high95": 10.0, "multiplier": 1.0,
                               "tokens": 384, "matrix_parameters": 10_000},
                "law": {"E": 1.0, "A": 1.0, "alpha": 0.3, "B": 1.0, "beta": 0.3}}  # fmt: skip
    api.Plan(resolved, plan_record(resolved, record | promised, examples)).save(path)
    return path


def change(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return path


def train(tmp_path: Path, plan: Path, *sources: Path, **more: Any) -> api.TrainedRun:
    return api.train(*sources, plan=plan, runs=tmp_path / "runs", cache=tmp_path / "cache", **more)


def test_a_plan_is_carried_out_as_it_is_and_scored(tmp_path: Path, plan: Path) -> None:
    config, record = read_plan(plan)
    run = train(tmp_path, plan)
    assert run.config == config and run.result is not None and run.result.step == 3
    assert json.loads(run.folder.plan.read_text())["prediction"] == record["prediction"]
    assert run.score is not None and run.score["reached"] == run.metrics["bits_per_byte"]
    rows, kept = api.scores(tmp_path / "cache")
    assert [row["run"] for row in rows] == [str(run.folder.path.absolute())] and kept.count == 1


def test_the_same_data_elsewhere_will_do(tmp_path: Path, plan: Path, text_file: Path) -> None:
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(text_file.read_bytes())
    assert train(tmp_path, plan, moved).config.data.sources == [str(moved)]


def test_other_data_is_refused(tmp_path: Path, plan: Path, text_file: Path) -> None:
    text_file.write_text(make_text(900, seed=4))
    with pytest.raises(DataError, match=r"made for other data.*plan again"):
        train(tmp_path, plan)
    assert not (tmp_path / "runs").exists()


def test_a_text_changed_in_its_middle_is_other_data(tmp_path: Path) -> None:
    found = []
    for name, middle in (("a", "b"), ("b", "c")):  # 200,000 characters apart from both ends, as many tokens
        path = tmp_path / f"{name}.txt"
        path.write_text("ab cd " * 40_000 + middle + " ab cd" * 40_000)
        given = Settings(steps=3, overrides=(*SMALL, "data.split=position")).resolve([path])
        found.append(open_corpus(kind_of(given).prepare(given, tmp_path / "cache", silent)[2].path).content)
    assert found[0] != found[1]


def test_another_machine_is_refused_unless_it_was_planned_for(tmp_path: Path, plan: Path) -> None:
    made_for = json.loads(plan.read_text())["fingerprint"]
    other = {**made_for, "machine": {"device": "cuda", "processor": "another", "cores": 1}}
    with pytest.raises(ConfigError, match=r"another machine \(cuda, 1 x another; this is .*--machine-factor"):
        train(tmp_path, change(plan, fingerprint=other))
    assert train(tmp_path, change(plan, machine_factor=10.0)).result is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [("not json", "not JSON"), ("[1]", "names no config"), ('{"kind": "plan"}', "names no config"),
     ('{"kind": "plan", "format": 99, "config": {}}', "newer steepest"),
     ('{"kind": "plan", "format": 1, "config": {"model": {"depht": 1}}}', 'did you mean "depth"')],
)  # fmt: skip
def test_what_is_not_a_plan_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        train(tmp_path, tmp_path / "plan.json")


@pytest.mark.parametrize("lacking", ["parameters", "tokens", "epochs", "fingerprint"])
def test_half_a_plan_is_refused_before_anything_is_written(tmp_path: Path, plan: Path, lacking: str) -> None:
    for odd in (None, "many", []):
        with pytest.raises(ConfigError, match=f"not a whole plan: it lacks {lacking};.*make one with"):
            train(tmp_path, change(plan, **{lacking: odd}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("odd", [{"value": 3.0}, {"value": 3.0, "low": 4.0, "high": 9.0}, [1], None])
def test_a_promise_that_is_not_whole_is_no_promise(tmp_path: Path, plan: Path, odd: Any) -> None:
    run = train(tmp_path, change(plan, prediction=odd))
    assert run.result is not None and run.score is None
    assert "not whole" in json.loads(run.folder.plan.read_text())["unpredictable"]


def test_a_run_whose_plan_is_damaged_says_so(tmp_path: Path, plan: Path) -> None:
    run = train(tmp_path, plan)
    run.folder.plan.write_text('{"tokens": 3')
    with pytest.raises(SteepestError, match="gone or damaged"):
        api.resume(run.folder.name, runs=tmp_path / "runs", cache=tmp_path / "cache")


def test_a_plan_for_another_machine_leaves_it_its_own_choices(tmp_path: Path, text_file: Path) -> None:
    overrides = (*SMALL[:5], "train.device=cpu", "train.dtype=float32", "train.sample_tokens=0")
    for factor in (1.0, 4.0):
        made = api.plan(
            text_file, time="20s", machine_factor=factor, cache=tmp_path / "cache", overrides=overrides
        )
        chosen = made.config.train.threads, made.config.train.compile
        assert (chosen == (None, None)) is (factor != 1.0)
        assert made.config.train.dtype == "float32"  # the user's own stays
    made.save(tmp_path / "plan.json")
    change(tmp_path / "plan.json", memory={"limit": 1, "asked": True})  # the other machine's
    run = train(tmp_path, tmp_path / "plan.json")
    assert json.loads(run.folder.plan.read_text())["memory"]["limit"] > 1
    assert run.config.train.threads is not None and run.config.train.compile is False
    assert run.config.optim.lr == made.config.optim.lr and run.config.batches == made.config.batches


def test_no_plan_and_a_second_budget_are_refused(tmp_path: Path, plan: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such plan.*steepest plan"):
        train(tmp_path, tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="leave out time and overrides"):
        train(tmp_path, plan, time="5m", overrides=["optim.lr=1"])


def test_bad_budgets_for_a_plan(tmp_path: Path, text_file: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"time": "3s"}, "too short"), ({"time": "3"}, "duration"), ({"time": "1m", "machine_factor": 0}, "0 times"),
        ({"time": "1m", "memory": "1MB"}, "nothing fits"),
    ]  # fmt: skip
    for given, told in cases:
        with pytest.raises(SteepestError, match=told):
            api.plan(text_file, cache=tmp_path / "cache", overrides=SMALL, **given)


def test_nothing_is_promised_without_held_out_text(tmp_path: Path, text_file: Path) -> None:
    given = Settings(time="10m", overrides=(*SMALL, "data.validation=0")).resolve([text_file])
    kind, given, examples = kind_of(given).prepare(given, tmp_path / "cache", silent)
    found: Promise = promise(given, {}, examples, kind, None, None, tmp_path, seconds=60.0, listen=silent)  # type: ignore[arg-type]
    assert found.outlook is None and "data.validation" in found.reason


def test_a_plan_for_labelled_texts_is_refused_on_others(tmp_path: Path) -> None:
    rows = write_tsv(tmp_path / "rows.tsv", lexical_rows(120))
    other = write_tsv(tmp_path / "other.tsv", lexical_rows(120, seed=1))
    config = {
        "objective": {"kind": "classification"},
        "model": {"depth": 1, "width": 32},
        "train": {"threads": 1},
    }
    made = api.plan(rows, time="30s", cache=tmp_path / "cache", config=config)
    made.save(tmp_path / "plan.json")
    with pytest.raises(DataError, match="made for other data"):
        api.train(other, plan=tmp_path / "plan.json", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists()
    assert made.record["fingerprint"]["machine"]["cores"] > 0 and made.record["fingerprint"]["data"]
