"""Clipping equals torch's, leaves what is not finite alone, and keeps the direction."""

import math

import pytest
import torch

from steepest.optim import clip_grad_norm_


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    result = []
    for shape in [(3, 4), (5,), (2, 2, 2), ()]:
        weight = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        weight.grad = torch.randn(shape, generator=generator, dtype=dtype)
        result.append(weight)
    return [*result, torch.nn.Parameter(torch.zeros(2, dtype=dtype))]  # the last has no gradient


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 100.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(max_norm: float, dtype: torch.dtype) -> None:
    ours, theirs = weights(dtype=dtype), weights(dtype=dtype)
    norm = clip_grad_norm_(iter(ours), max_norm)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm), rtol=0, atol=0)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_norm_is_that_of_all_gradients_together() -> None:
    members = weights(dtype=torch.float64)
    flat = torch.cat([w.grad.flatten() for w in members if w.grad is not None])
    norm = clip_grad_norm_(members, 0.5)
    torch.testing.assert_close(norm, flat.square().sum().sqrt())
    after = torch.cat([w.grad.flatten() for w in members if w.grad is not None])
    torch.testing.assert_close(after, flat * 0.5 / norm, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_with_a_non_finite_value_stay(value: float) -> None:
    members = weights()
    assert members[1].grad is not None
    members[1].grad[2] = value
    before = [w.grad.clone() for w in members if w.grad is not None]
    assert not clip_grad_norm_(members, 1.0).isfinite()
    for weight, grad in zip(members, before, strict=False):
        torch.testing.assert_close(weight.grad, grad, rtol=0, atol=0, equal_nan=True)


def test_zero_only_measures() -> None:
    members, untouched = weights(), weights()
    assert clip_grad_norm_(members, 0.0) > 1
    for weight, other in zip(members, untouched, strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=0, atol=0)


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_grad_norm_([torch.nn.Parameter(torch.zeros(2))], 1.0) == 0
