"""The pace of a run: that of its own size and batch; rungs as slow as the slowest of those beside them."""

import os
import time
from typing import Any

import pytest
import torch

from steepest.model import Transformer, TransformerConfig
from steepest.model.size import n_matrix_parameters
from steepest.planning import measure
from steepest.planning.measure import PROBE_TOKENS, SETTLING_TOKENS, WIDE, Pace, own_pace, rung_pace
from steepest.train.run import RunConfig

CPU = torch.device("cpu")
OVERHEAD, TOKEN = 0.08, 2e-5  # seconds of a step, and of each token in it
MODEL = TransformerConfig(vocab_size=256, context=64, depth=1, width=64)


class Step:
    """A step that costs a fixed time and some for each token, without being made."""

    def __init__(self, *, sequences: int, model: TransformerConfig, **more: Any) -> None:
        self.tokens = sequences * model.context

    def seconds_per_token(self, repeats: int = 3) -> float:
        return OVERHEAD / self.tokens + TOKEN


def given(seconds: float) -> RunConfig:
    empty = RunConfig()
    return empty.replace(train=empty.train.replace(time=seconds, device="cpu", dtype="float32", threads=1))


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    monkeypatch.setattr(measure, "StepProbe", Step)
    probed = OVERHEAD / PROBE_TOKENS + TOKEN
    return Pace({n_matrix_parameters(MODEL): probed, 10**7: 10 * probed})


def test_a_larger_batch_costs_less_a_token_at_every_size(pace: Pace) -> None:
    found = own_pace(given(600), MODEL, CPU, 8192, pace)
    n = n_matrix_parameters(MODEL)
    assert found.seconds_per_token(n) == pytest.approx(OVERHEAD / 8192 + TOKEN)
    assert found.seconds_per_token(10**7) == pytest.approx(10 * found.seconds_per_token(n))
    again = own_pace(given(600), MODEL, CPU, 8192, found)
    assert again.seconds_per_token(n) == pytest.approx(found.seconds_per_token(n))


def test_timing_it_takes_no_more_than_its_share(pace: Pace) -> None:
    n = n_matrix_parameters(MODEL)
    # Of 60 seconds 0.6 may go to four steps: 2,048 tokens each, however large the batch.
    short = own_pace(given(60), MODEL, CPU, 2**16, pace)
    assert short.seconds_per_token(n) == pytest.approx(pace.seconds_per_token(n))
    assert own_pace(given(59), MODEL, CPU, 2**16, pace) is pace
    assert own_pace(given(600), MODEL, torch.device("cuda"), 2**16, pace) is pace


def test_a_large_batch_of_the_user_is_not_timed_as_a_whole(pace: Pace) -> None:
    wide = given(600)
    wide = wide.replace(batches=wide.batches.replace(batch_tokens=2**17))
    n = n_matrix_parameters(MODEL)
    whole = own_pace(wide, MODEL, CPU, 2**17, pace).seconds_per_token(n)
    assert whole == pytest.approx(
        OVERHEAD / 2**14 + TOKEN
    )  # four steps of so many tokens are within 1% of ten minutes
    short = own_pace(given(120), MODEL, CPU, 2**17, pace).seconds_per_token(n)
    assert short > whole
    shapes = [MODEL.replace(width=32)]
    assert rung_pace(wide, shapes, pace).measured[n_matrix_parameters(shapes[0])] == pytest.approx(
        OVERHEAD / SETTLING_TOKENS + TOKEN
    )


def test_rungs_side_by_side_are_as_slow_as_the_slowest(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getpid()

    def contended(self: Step, repeats: int = 3) -> float:
        return 1e-5 if os.getpid() == mine else 1e-9 * os.getpid()

    monkeypatch.setattr(Step, "seconds_per_token", contended)
    wide = MODEL.replace(width=WIDE)
    alone = rung_pace(given(600), [MODEL, wide], pace)
    beside = rung_pace(given(600), [MODEL, wide], pace, workers=2)
    n, many = n_matrix_parameters(MODEL), n_matrix_parameters(wide)
    assert alone.measured == {n: 1e-5, many: pace.seconds_per_token(many)}
    assert beside.measured[many] == 2 * pace.seconds_per_token(many)
    assert beside.measured[n] > 1e-9 * (mine + 1)  # of two later processes the later one


def test_blocks_are_compiled_where_a_long_run_gains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[float]()

    def settled(seconds: float, slowness: float | None, said: bool | None = None) -> bool | None:
        monkeypatch.setattr(measure, "compiled_slowness", lambda *_: asked.append(seconds) or slowness)
        config = given(7200)
        config = config.replace(train=config.train.replace(compile=said))
        return measure.settle_compiling(config, MODEL, CPU, 4096, seconds=seconds)[0].train.compile

    assert [settled(7200, slowness) for slowness in (0.8, 0.99, 1.2, None)] == [True, False, False, False]
    assert asked == [7200] * 4
    assert (settled(600, 0.5), settled(7200, 0.5, said=False), settled(60, 2.0, said=True)) == (
        None,
        False,
        True,
    )
    assert asked == [7200] * 4  # neither a short run nor one whose user has said so tries it


def test_what_compiling_changes_is_timed_on_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowed(self: Transformer) -> None:
        for block in self.blocks:
            block.register_forward_pre_hook(lambda *_: time.sleep(0.2))

    monkeypatch.setattr(Transformer, "compile_blocks", slowed)
    slowness = measure.compiled_slowness(given(7200), MODEL, CPU, 128)
    assert slowness is not None and slowness > 2


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no C++ compiler found")

    def compiled(self: Transformer) -> None:
        for block in self.blocks:
            block.register_forward_pre_hook(broken)

    monkeypatch.setattr(Transformer, "compile_blocks", compiled)
    config, slowness = measure.settle_compiling(given(7200), MODEL, CPU, 128, seconds=7200)
    assert slowness is None and config.train.compile is False
