"""Every sickness, planted, is recognised; healthy runs raise nothing; what is said does not depend on who reads."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest

from sickness import HEALTHY, SICK, Case, train
from steepest.health import KINDS, Habits, Judge, diagnose

SMALL = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 3, "width": 32, "head_dim": 16, "context": 32},
    "batches": {"batch_tokens": 192},
    "train": {"steps": 60, "evaluations": 0, "device": "cpu"},
    "health": {"every": 6},
}
STEPS = {  # where a kind shows sooner or later than after 60 steps
    "vanishing gradient": 12,
    "exploding gradient": 6,
    "clipping on every step": 68,
    "attention logits growing": 130,
    "over-fitting": 210,
    "loss spike": 102,
    "non-finite steps": 80,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(topics.values())[:200_000])
    return path


def one_of_each() -> list[Case]:
    return list({case.kind: case for case in reversed(SICK)}.values())


@pytest.mark.parametrize("case", one_of_each(), ids=lambda case: str(case.kind))
def test_a_planted_sickness_is_recognised(case: Case, text: Path, tmp_path: Path) -> None:
    assert case.kind is not None
    steps = {"steps": STEPS.get(case.kind, 60), "evaluations": 15 if case.kind == "over-fitting" else 0}
    settings = {**case.settings, "train": steps}
    verdicts, records = train(
        Case(case.name, settings, case.kind, case.fault, case.text_bytes), text, tmp_path, base=SMALL
    )
    found = [verdict for verdict in verdicts if verdict.kind == case.kind]
    assert found, [verdict.sentence for verdict in verdicts]
    assert found[0].sentence.endswith(".") and found[0].sentence.count(". ") == 0  # one sentence
    if case.name == "dead-layer":
        assert found[0].layer == "block 3 attention"
    if case.kind == "loss spike":
        assert found[0].step == 101
    habits = Habits(**_habits(records, settings))
    assert [one.kind for one in diagnose(records, habits)] == [one.kind for one in verdicts]


def _habits(records: list[dict], settings: dict) -> dict:
    optim = settings.get("optim", {})
    lr = optim.get("lr") or max(record["lr"] for record in records if "lr" in record)
    return {"lr": lr, "clip": optim.get("clip", 1.0), "weight_decay": optim.get("weight_decay", 0.1)}


def test_every_kind_has_its_planted_fault() -> None:
    assert {case.kind for case in SICK} == set(KINDS) and len(KINDS) == 12
    assert len(HEALTHY) >= 20


@pytest.mark.parametrize("name", ["plain", "deep", "adamw", "reversible", "tied"])
def test_healthy_runs_raise_nothing(name: str, text: Path, tmp_path: Path) -> None:
    case = next(case for case in HEALTHY if case.name == name)
    settings = {**case.settings, "train": {"steps": 50}}
    verdicts, records = train(Case(name, settings), text, tmp_path, base=SMALL)
    assert [verdict.sentence for verdict in verdicts] == []
    assert sum("gradient_flow" in record for record in records) == 9


def test_losses_known_by_heart_have_no_ratio() -> None:
    judge = Judge(Habits(lr=1e-2, clip=1.0, weight_decay=0.0, optimizer="adamw"))
    for step in range(1, 400):
        loss = 0.0 if step < 200 else 0.003 * (step % 3)
        judge.see({"step": step, "loss": loss, "lr": 1e-2, "grad_norm": 0.5, "verdict": "ok", "tokens": step})
    assert [one.kind for one in judge.verdicts] == []


def test_each_kind_is_said_once_but_every_spike_is() -> None:
    judge = Judge(Habits(lr=1.0, clip=0.0))
    said = []
    for step in range(1, 140):
        loss = 9.0 if step in (60, 100) else 2.0 + 0.01 * (step % 3)
        verdict = "non-finite" if 70 <= step < 76 else "ok"
        said += judge.see({"step": step, "loss": loss, "lr": 1.0, "grad_norm": 1.0, "verdict": verdict})
    assert [(one.kind, one.step) for one in said] == [
        ("loss spike", 60), ("non-finite steps", 70), ("loss spike", 100),
    ]  # fmt: skip
