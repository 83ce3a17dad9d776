"""The guard skips what is harmful and little else; its state is exact; many skips in a row are an error."""

import json
import math

import numpy as np
import pytest

from steepest.errors import TrainingError
from steepest.train.spikes import SpikeGuard


def verdicts(guard: SpikeGuard, losses: object, norms: object) -> list[str]:
    pairs = zip(np.asarray(losses).tolist(), np.asarray(norms).tolist(), strict=True)
    return [guard.check(loss, norm) for loss, norm in pairs]


def settled(seed: int = 0, **settings: float) -> SpikeGuard:
    rng = np.random.default_rng(seed)
    guard = SpikeGuard(**settings)  # type: ignore[arg-type]
    verdicts(guard, 3 + 0.1 * rng.standard_normal(200), np.exp(0.2 * rng.standard_normal(200)))
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_is_skipped_from_the_first_step(value: float) -> None:
    guard = SpikeGuard()
    assert guard.check(value, 1.0) == "non-finite"
    assert guard.check(1.0, value) == "non-finite"
    assert guard.check(1.0, 1.0) == "ok"


def test_one_sided() -> None:
    assert settled().check(3.0, 100.0) == "outlier"
    assert settled().check(4.5, 1.0) == "outlier"
    assert settled().check(0.1, 1.0) == "ok"
    assert settled().check(3.0, 1e-6) == "ok"
    assert settled().check(3.0, 0.0) == "ok"


def test_bounds_are_six_deviations_of_what_was_accepted() -> None:
    rng = np.random.default_rng(5)
    losses, logs = 3 + 0.2 * rng.standard_normal(128), 0.5 * rng.standard_normal(128)
    loss_bound = losses.mean() + 6 * losses.std(ddof=1)
    norm_bound = math.exp(logs.mean() + 6 * logs.std(ddof=1))
    for loss, norm, expected in [
        (loss_bound - 1e-6, 1.0, "ok"),
        (loss_bound + 1e-6, 1.0, "outlier"),
        (3.0, norm_bound * (1 - 1e-6), "ok"),
        (3.0, norm_bound * (1 + 1e-6), "outlier"),
    ]:
        guard = SpikeGuard()
        verdicts(guard, losses, np.exp(logs))
        assert guard.check(loss, norm) == expected


def test_skipped_values_do_not_raise_the_bar() -> None:
    guard = settled()
    before = guard.state_dict()
    for value in (50.0, 60.0, math.nan, 70.0):
        assert guard.check(value, 1.0) != "ok"
    after = guard.state_dict()
    assert after["losses"] == before["losses"] and after["norms"] == before["norms"]


def test_nothing_finite_is_an_outlier_before_the_minimum() -> None:
    guard = SpikeGuard(minimum=32)
    assert [guard.check(1.0, 1.0) for _ in range(31)] == ["ok"] * 31
    assert guard.check(1e6, 1e6) == "ok"


def test_a_history_that_hardly_moves_does_not_trip() -> None:
    guard = SpikeGuard()
    for _ in range(128):
        guard.check(2.0, 1.0)
    assert guard.check(2.2, 1.5) == "ok"
    assert guard.check(3.0, 1.0) == "outlier"
    assert guard.check(2.0, 3.0) == "outlier"


def test_data_known_by_heart_do_not_trip() -> None:
    guard = SpikeGuard()
    for _ in range(128):
        assert guard.check(2e-9, 1e-9) == "ok"
    for loss, norm in [(1e-7, 1e-6), (1e-4, 1e-2), (0.1, 3.0), (2e-9, 1e-9)]:
        assert guard.check(loss, norm) == "ok"
    assert guard.check(2.0, 1.0) == "outlier"


@pytest.mark.parametrize(
    ("loss_noise", "norm_noise", "rate"),
    [
        (lambda r, n: 0.05 * r.standard_normal(n), lambda r, n: 0.3 * r.standard_normal(n), 1e-4),
        (lambda r, n: 0.3 * r.standard_normal(n), lambda r, n: 0.6 * r.standard_normal(n), 1e-4),
        (lambda r, n: 0.1 * r.gamma(4.0, size=n), lambda r, n: 0.3 * r.gumbel(size=n), 1e-3),
        (lambda r, n: 0.05 * r.standard_t(4, n), lambda r, n: 0.2 * r.standard_t(4, n), 3e-3),
        (lambda r, n: 0.05 * r.standard_t(3, n), lambda r, n: 0.2 * r.standard_t(3, n), 5e-3),
    ],
    ids=["gaussian", "small batches", "skewed", "Student 4", "Student 3"],
)
def test_false_alarms_are_rare_in_healthy_training(
    loss_noise: object, norm_noise: object, rate: float
) -> None:
    rng, n = np.random.default_rng(0), 6000
    curve = 2 + 3 * np.exp(-np.arange(n) / 500)
    losses = curve + loss_noise(rng, n)  # type: ignore[operator]
    norms = np.exp(norm_noise(rng, n)) * np.linspace(3, 0.5, n)  # type: ignore[operator]
    found = verdicts(SpikeGuard(), losses, norms)
    assert found.count("ok") >= (1 - rate) * n


def test_a_new_level_of_the_gradient_norm_is_accepted_when_it_comes_slowly() -> None:
    rng = np.random.default_rng(0)
    norms = np.exp(0.2 * rng.standard_normal(3000)) * np.geomspace(1, 100, 3000)
    assert set(verdicts(SpikeGuard(), np.full(3000, 2.0), norms)) == {"ok"}


def test_many_in_a_row_are_an_error_that_says_what_to_try() -> None:
    guard = settled(limit=4)
    for _ in range(3):
        guard.check(99.0, 1.0)
    guard.check(3.0, 1.0)  # a good step: the count begins anew
    for _ in range(3):
        guard.check(99.0, 50.0)
    with pytest.raises(TrainingError) as caught:
        guard.check(99.0, 50.0)
    message = str(caught.value)
    for part in ("step 208", "4 steps skipped", "loss 99", "gradient norm 50", "optim.lr", "optim.warmup"):
        assert part in message
    assert "\n" not in message

    guard = SpikeGuard(limit=2)
    guard.check(math.nan, 1.0)
    with pytest.raises(TrainingError, match=r"step 17 was not finite.*loss nan"):
        guard.check(math.nan, 1.0, step=17)


def test_state_survives_json_exactly() -> None:
    rng = np.random.default_rng(2)
    losses = 3 + 0.1 * rng.standard_t(2, 600)
    norms = np.exp(0.3 * rng.standard_t(2, 600))
    losses[450] = math.nan
    whole = SpikeGuard(limit=100)
    expected = verdicts(whole, losses, norms)
    assert len(set(expected)) == 3
    first = SpikeGuard(limit=100)
    found = verdicts(first, losses[:300], norms[:300])
    second = SpikeGuard(limit=100)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    found += verdicts(second, losses[300:], norms[300:])
    assert found == expected
    assert second.state_dict() == whole.state_dict()
