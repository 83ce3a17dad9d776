"""The ledger: scores survive, count once a run, and teach the multiplier what calibrated intervals would have been."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from steepest.planning.ledger import Ledger, multiplier_of, quantile


def score(run: str, off: float, half: float = 0.02, multiplier: float = 1.0) -> dict[str, Any]:
    """A prediction of 2.0 with a half-width of ``half``, missed by ``off``, both as logarithms."""
    ends = {"low80": 2 * math.exp(-half * multiplier), "high80": 2 * math.exp(half * multiplier)}
    wide = {"low95": 2 * math.exp(-1.5 * half * multiplier), "high95": 2 * math.exp(1.5 * half * multiplier)}
    reached = 2 * math.exp(off)
    return {
        "run": run, "predicted": 2.0, **ends, **wide, "reached": reached, "multiplier": multiplier,
        "error": reached / 2 - 1, "inside80": ends["low80"] <= reached <= ends["high80"],
        "inside95": wide["low95"] <= reached <= wide["high95"],
    }  # fmt: skip


def test_a_run_counts_once_by_its_newest_score(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cache")
    assert ledger.scores() == [] and ledger.multiplier == 1.0 and ledger.record().count == 0
    ledger.add(score("a", 0.01))
    ledger.add(score("b", 0.03))
    ledger.add(score("a", -0.05))
    with ledger.file.open("a") as file:
        file.write('{"run": "c", "predi')  # a killed writer's last line
    found = ledger.scores()
    assert [one["run"] for one in found] == ["b", "a"]
    record = ledger.record()
    assert (record.count, record.inside80, record.inside95) == (2, 0.0, 0.5)
    assert record.median_error == pytest.approx(0.5 * (math.exp(0.03) - 1 + 1 - math.exp(-0.05)))


def test_lines_that_somebody_edited_count_for_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(score("a", 0.01))
    good = ledger.record()
    for odd in ({}, {"run": "b"}, {**score("c", 0.1), "reached": math.nan}, {**score("d", 0.1), "high80": "wide"},
                {**score("e", 0.1), "low80": 2.0, "high80": 2.0}, {**score("f", 0.1), "predicted": 0}):  # fmt: skip
        ledger.add(odd)
    assert ledger.record() == good and [one["run"] for one in ledger.scores()] == ["a"]


@pytest.mark.parametrize("too_narrow", [0.8, 1.0, 2.0])
def test_the_multiplier_goes_to_what_makes_eight_in_ten_right(too_narrow: float) -> None:
    dice, spread = random.Random(1), 0.02 / 1.2816
    scores = [score(str(i), dice.gauss(0, too_narrow * spread)) for i in range(600)]
    assert multiplier_of(scores) == pytest.approx(too_narrow, rel=0.12)


def test_the_multiplier_in_force_is_taken_out_again() -> None:
    dice = random.Random(2)
    offs = [dice.gauss(0, 0.03) for _ in range(200)]
    plain = multiplier_of([score(str(i), off) for i, off in enumerate(offs)])
    widened = multiplier_of([score(str(i), off, multiplier=1.7) for i, off in enumerate(offs)])
    assert widened == pytest.approx(plain)


def test_few_scores_move_it_little_and_none_moves_it_far() -> None:
    assert 1.0 < multiplier_of([score("a", 0.1)]) < 1.25
    assert multiplier_of([score(str(i), 9.0) for i in range(99)]) == 3.0
    assert multiplier_of([score(str(i), 0.0) for i in range(99)]) == 0.7


def test_quantiles_lie_between_neighbours() -> None:
    assert quantile([1.0, 3.0], 0.5) == 2.0 and quantile([5.0], 0.9) == 5.0
