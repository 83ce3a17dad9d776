"""The transition gate: curves before the knee are stopped, curves after it pass."""

import numpy as np
import pytest

from steepest.errors import DataError
from steepest.scaling import judge_ladder, local_slopes
from steepest.scaling.gate import pairs_of, slopes_between


def knee(d: np.ndarray, at: float) -> np.ndarray:
    """A plateau at 2.6 that is left at ``at`` tokens for a power law, as small models do."""
    after = 1.2 + 1.4 * (1 + (d / at) ** 2) ** -0.2
    return after + 0.3 * (d / 1e5) ** -0.5


OCTAVES = 2.0 ** np.arange(17, 26, 0.5)


def test_slopes_of_a_power_law_are_its_exponent() -> None:
    last, before = local_slopes(OCTAVES, 5 * OCTAVES**-0.2)
    assert (last, before) == pytest.approx((0.2, 0.2), abs=1e-9)


def test_slopes_of_a_curve_with_a_floor_match_the_derivative() -> None:
    loss = 2 + (OCTAVES / 1e6) ** -0.5
    last, before = local_slopes(OCTAVES, loss)
    exact = 0.5 * (loss - 2) / loss
    assert exact[-1] < last < exact[-3] and exact[-3] < before < exact[-5]


def test_noise_of_evaluations_does_not_trip_the_gate() -> None:
    dice = np.random.default_rng(0)
    d = np.linspace(1e6, 2e7, 80)
    curves = [
        (d, (2 + k * (d / 1e6) ** -0.4) * (1 + 0.004 * dice.normal(size=80))) for k in (1, 0.9, 0.8, 0.7)
    ]
    assert judge_ladder([1e5, 2e5, 4e5, 8e5], curves).predictable


@pytest.mark.parametrize(("ends", "passes"), [(2**20, 0), (2**25, 4)])
def test_before_the_knee_nothing_counts_and_after_it_all(ends: int, passes: int) -> None:
    d = OCTAVES[ends >= OCTAVES]
    curves = [(d, knee(d, at=2.0**20.5) * k) for k in (1.0, 0.97, 0.94, 0.91)]
    verdict = judge_ladder([2e4, 4e4, 8e4, 1.6e5], curves)
    assert len(verdict.passed) == passes
    assert verdict.predictable == bool(passes)
    if not passes:
        assert verdict.reason.startswith("not predictable at this budget: 0 of 4 rungs count")
        assert "before the knee" in verdict.reason


def test_a_tame_plateau_is_unmasked_by_a_longer_run() -> None:
    """At 2**19 tokens the curve looks like a law; the run of 2**21 shows that it was not one yet."""
    short, long = OCTAVES[OCTAVES <= 2**19], OCTAVES[OCTAVES <= 2**21]
    alone = judge_ladder([2e4], [(short, knee(short, 2.0**21))])
    assert alone.rungs[0].passed
    both = judge_ladder([2e4, 4e4], [(short, knee(short, 2.0**21)), (long, knee(long, 2.0**21))])
    assert both.passed == []
    assert "still steepens" in both.rungs[0].reason


def test_measured_models_with_and_without_the_knee() -> None:
    """Losses of two 33k-parameter models (dev/LOG.md): learned positions before the knee, rotary ones after it."""
    before = ([0.65e6, 1.3e6, 2.6e6, 5.2e6, 10.5e6], [2.72, 2.66, 2.57, 2.30, 1.94])
    after = ([0.33e6, 0.66e6, 1.3e6, 2.6e6, 5.2e6], [2.77, 2.48, 2.09, 1.84, 1.72])
    assert judge_ladder([33e3], [before]).passed == []
    assert judge_ladder([33e3], [after]).passed == [0]
    early = judge_ladder([33e3], [(after[0][:3], after[1][:3])])
    assert early.passed == []
    assert early.rungs[0].slope > early.rungs[0].slope_before


def test_few_tokens_or_a_stalled_run_do_not_count() -> None:
    loss = 2 + (OCTAVES / 1e6) ** -0.5
    starved = judge_ladder([OCTAVES[-1] / 2], [(OCTAVES, loss)])
    assert "tokens a parameter" in starved.rungs[0].reason
    assert judge_ladder([OCTAVES[-1] / 2], [(OCTAVES, loss)], least_ratio=1).passed == [0]
    stalled = judge_ladder([1e5], [(OCTAVES, 2 + 1e-3 * loss)])
    assert "hardly falls" in stalled.rungs[0].reason


def test_four_rungs_of_two_sizes_are_needed() -> None:
    curve = (OCTAVES, 2 + (OCTAVES / 1e6) ** -0.5)
    assert not judge_ladder([1e5] * 4, [curve] * 4).predictable
    assert not judge_ladder([1e5, 2e5, 4e5], [curve] * 3).predictable
    assert judge_ladder([1e5, 1e5, 2e5, 2e5], [curve] * 4).predictable


def test_too_short_a_curve_is_a_reason_and_not_a_crash() -> None:
    with pytest.raises(DataError, match="evaluate more often"):
        local_slopes([1e6, 1.1e6, 1.2e6], [3, 2.9, 2.8])
    verdict = judge_ladder([1e4], [([1e6], [3.0])])
    assert verdict.rungs[0].reason.startswith("the slope of a curve needs losses from a quarter")


def cooled(end: float, at: float, times: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A run whose rate falls towards its end, which bends its curve down there: by 8% at its very end."""
    d = end * 2.0 ** np.arange(-3, 0.1, 0.25)
    return d, times * knee(d, at) * (1 - 0.08 * (d / end) ** 4)


@pytest.mark.parametrize(("at", "passes"), [(2.0**15, 4), (2.0**21, 0)])
def test_runs_that_cool_down_are_judged_by_another_length_of_their_size(at: float, passes: int) -> None:
    sizes = [1e5, 1e5, 2e5, 2e5]
    curves = [cooled(2.0**k, at, times) for times in (1.0, 0.9) for k in (20, 21)]
    assert judge_ladder(sizes, curves, least_ratio=0).passed == []  # by their own curves none would count
    assert len(judge_ladder(sizes, curves, least_ratio=0, cooled=True).passed) == passes


def test_slopes_between_two_lengths_are_those_of_the_law_alone() -> None:
    last, before = slopes_between(cooled(2.0**22, 2.0**15), cooled(2.0**23, 2.0**15))
    for found, share in ((last, 1.0), (before, 0.5)):
        ends = share * 2.0 ** np.array([21.75, 22.75])
        exact = np.log(knee(ends[:1], 2.0**15) / knee(ends[1:], 2.0**15))[0] / np.log(2)
        assert found == pytest.approx(exact, abs=2e-3)
    with pytest.raises(DataError, match="from a third of their tokens"):
        slopes_between(([1e6, 1.1e6, 1.2e6], [3, 2.9, 2.8]), cooled(2.0**23, 2.0**15))


def test_held_out_losses_say_the_last_slope_where_they_are_known() -> None:
    curves = [cooled(2.0**k, 2.0**15) for k in (20, 21)]
    verdict = judge_ladder([1e5] * 2, curves, least_ratio=0, cooled=True, reached=[2.0, 1.8])
    assert [rung.slope for rung in verdict.rungs] == pytest.approx([np.log(2.0 / 1.8) / np.log(2)] * 2)
    flat = judge_ladder([1e5] * 2, curves, least_ratio=0, cooled=True, reached=[2.0, 1.99])
    assert all("hardly falls" in rung.reason for rung in flat.rungs)


def test_a_size_of_one_length_counts_where_all_pairs_do() -> None:
    after, before = ([cooled(2.0**k, at) for k in (20, 21)] for at in (2.0**15, 2.0**21))
    alone = cooled(2.0**21, 2.0**15, 0.9)
    assert judge_ladder([1e5, 1e5, 2e5], [*after, alone], least_ratio=0, cooled=True).passed == [0, 1, 2]
    half = cooled(
        2.0**20.5, 2.0**15, 0.9
    )  # longer than the shortest of the pair, half an octave from the other of its size
    assert judge_ladder([1e5, 1e5, 2e5, 2e5], [*after, half, alone], least_ratio=0, cooled=True).passed == [
        0,
        1,
        2,
        3,
    ]
    short = cooled(2.0**19.5, 2.0**15, 0.9)
    assert judge_ladder([1e5, 1e5, 2e5], [*after, short], least_ratio=0, cooled=True).passed == [0, 1]
    assert judge_ladder([1e5, 1e5, 2e5], [*before, alone], least_ratio=0, cooled=True).passed == []
    only = judge_ladder([2e5], [alone], least_ratio=0, cooled=True)
    assert "no other run of its size" in only.rungs[0].reason
    assert pairs_of([1e5, 1e5, 2e5], [100, 110, 200]) == {}  # too alike in length to tell anything
