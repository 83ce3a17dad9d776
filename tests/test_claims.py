"""The page of claims is what the experiments left; every experiment has a table, a picture and a verdict."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLAIM = runpy.run_path(str(ROOT / "experiments" / "claim.py"))
RESULTS = ROOT / "experiments" / "results"


@pytest.mark.parametrize("name", CLAIM["ORDER"])
def test_every_claim_was_measured(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text())
    assert record["verdict"] in ("holds", "holds in part", "does not hold")
    assert record["cpu_seconds"] < 120 and len(record["because"]) > 40
    assert all(len(row) == len(record["header"]) for row in record["rows"])
    assert (RESULTS / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{name}.py" in {path.name for path in (ROOT / "experiments").glob("*.py")}


def test_the_page_is_what_the_results_say() -> None:
    found = [(name, json.loads((RESULTS / f"{name}.json").read_text())) for name in CLAIM["ORDER"]]
    assert (ROOT / "docs" / "claims.md").read_text() == CLAIM["page"](found), (
        "run python experiments/claim.py page"
    )


def test_figures_are_short() -> None:
    shown = CLAIM["shown"]
    assert [shown(x) for x in (0.123456, 1234567.0, 1e-9, 12345, float("inf"), "a")] == [
        "0.1235", "1.23e+06", "1.00e-09", "12,345", "diverged", "a",
    ]  # fmt: skip
