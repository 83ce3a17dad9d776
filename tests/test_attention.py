"""Attention three ways, rotary positions and the hand-written gradients, each against a plain twin."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from steepest.model import attention, causal_mask, document_mask
from steepest.model.attention import Implementation
from steepest.model.norm import rms_norm
from steepest.model.rotary import queries_keys_values, rotate, rotation_at
from steepest.model.swiglu import swiglu

FAST: list[Implementation] = ["sdpa", "blocked", "auto"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def heads(
    length: int, query_heads: int = 4, key_heads: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    q = draw(2, query_heads, length, 8, seed=1, dtype=dtype)
    k, v = (draw(2, key_heads, length, 8, seed=seed, dtype=dtype) for seed in (2, 3))
    return q, k, v


def masks(length: int) -> dict[str, Tensor | None]:
    """A text; texts packed into a row; any graph (per sequence, and one for all), some rows without an edge."""
    generator = torch.Generator().manual_seed(length)
    documents = (torch.rand(2, length, generator=generator) < 0.2).cumsum(1)
    graph = torch.rand(2, length, length, generator=generator) < 0.3
    graph[:, length // 2] = False
    return {"causal": None, "documents": document_mask(documents), "graph": graph, "shared": graph[:1]}


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The first line of the module, one query at a time; differentiable."""
    batch, query_heads, length, width = q.shape
    rows = []
    for b in range(batch):
        for h in range(query_heads):
            g = h * k.shape[1] // query_heads
            for i in range(length):
                seen = mask[b % len(mask), i].nonzero()[:, 0]
                weights = (k[b, g, seen] @ q[b, h, i] / math.sqrt(width)).exp()
                rows.append(
                    (weights @ v[b, g, seen]) / weights.sum() if len(seen) else torch.zeros_like(q[b, h, i])
                )
    return torch.stack(rows).view(q.shape)


def outcome(function: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
    """Value, and gradients of a random weighting of it."""
    out = function(*leaves)
    weights = draw(*out.shape, seed=9, dtype=out.dtype).detach()
    return out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("kind", ["causal", "documents", "graph", "shared"])
def test_eager_is_the_formula(kind: str) -> None:
    q, k, v = heads(7)
    mask = masks(7)[kind]
    square = causal_mask(7)[None] if mask is None else mask
    got = outcome(lambda *qkv: attention(*qkv, mask=mask, implementation="eager"), q, k, v)
    assert_same(got, outcome(lambda *qkv: formula(*qkv, square), q, k, v), 1e-13)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 5, 64, 97, 200])
@pytest.mark.parametrize("kind", ["causal", "documents", "graph", "shared"])
@pytest.mark.parametrize("implementation", FAST)
def test_fast_equals_eager(implementation: Implementation, kind: str, length: int, key_heads: int) -> None:
    q, k, v = heads(length, key_heads=key_heads)
    mask = masks(length)[kind]
    got = outcome(lambda *qkv: attention(*qkv, mask=mask, implementation=implementation), q, k, v)
    eager = outcome(lambda *qkv: attention(*qkv, mask=mask, implementation="eager"), q, k, v)
    assert_same(got, eager, 1e-12)


@pytest.mark.parametrize("implementation", FAST)
def test_float32(implementation: Implementation) -> None:
    q, k, v = heads(130, dtype=torch.float32)
    got = outcome(lambda *qkv: attention(*qkv, implementation=implementation), q, k, v)
    eager = outcome(lambda *qkv: attention(*qkv, implementation="eager"), *heads(130))
    assert_same(tuple(x.double() for x in got), eager, 2e-6)


@pytest.mark.parametrize("queries", [1, 3, 70])
@pytest.mark.parametrize("implementation", FAST)
def test_last_queries_of_more_keys(implementation: Implementation, queries: int) -> None:
    q, k, v = heads(100)
    last = q[:, :, -queries:].detach().requires_grad_()
    got = attention(last, k, v, implementation=implementation)
    expected = attention(q, k, v, implementation="eager")[:, :, -queries:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "blocked"])
def test_a_row_that_sees_nothing_is_zero(implementation: Implementation) -> None:
    q, k, v = heads(6)
    mask = causal_mask(6).clone()
    mask[[0, 4]] = False
    out, *gradients = outcome(
        lambda *qkv: attention(*qkv, mask=mask[None], implementation=implementation), q, k, v
    )
    assert (out[:, :, [0, 4]] == 0).all() and (out[:, :, [1, 2, 3, 5]] != 0).all()
    assert (gradients[0][:, :, [0, 4]] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "blocked"])
@pytest.mark.parametrize("kind", ["causal", "graph"])
def test_finite_differences(implementation: Implementation, kind: str) -> None:
    q, k, v = (x[:1, :2, :5, :4].detach().requires_grad_() for x in heads(5))
    k, v = (x[:, :1].detach().requires_grad_() for x in (k, v))
    mask = masks(5)[kind]
    mask = None if mask is None else mask[:1]
    assert torch.autograd.gradcheck(
        lambda *qkv: attention(*qkv, mask=mask, implementation=implementation), (q, k, v)
    )


def test_eager_second_derivatives() -> None:
    q, k, v = (x[:1, :1, :4, :2].detach().requires_grad_() for x in heads(4))
    for mask in (None, masks(4)["graph"][:1]):  # type: ignore[index]
        assert torch.autograd.gradgradcheck(
            lambda *qkv, mask=mask: attention(*qkv, mask=mask, implementation="eager"), (q, k, v)
        )


def test_masks() -> None:
    assert torch.equal(causal_mask(5), torch.ones(5, 5).tril().bool())
    assert torch.equal(causal_mask(2, 5), causal_mask(5)[3:])
    documents = torch.tensor([[0, 0, 1, 1, 2], [3, 3, 3, 3, 3]])
    mask = document_mask(documents)
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(5)).tolist():
        assert mask[b, i, j] == (j <= i and documents[b, i] == documents[b, j])
    with pytest.raises(ValueError, match="boolean mask"):
        attention(*heads(5), mask=torch.zeros(1, 5, 5))
    q, k, v = heads(5)
    for implementation in ("eager", *FAST):
        with pytest.raises(ValueError, match="5 queries needs as many keys; got 3"):
            attention(q, k[:, :, :3], v[:, :, :3], implementation=implementation)


def test_blocked_keeps_nothing_without_gradients() -> None:
    q, k, v = heads(70)
    expected = attention(q, k, v, implementation="eager").detach()
    with torch.no_grad():
        got = attention(q, k, v, implementation="blocked")
    assert not got.requires_grad
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


# Rotary positions


def test_rotation_is_complex_multiplication() -> None:
    x = draw(2, 9, 3, 8).detach()
    positions = torch.arange(9)
    got = rotate(x, rotation_at(positions, 8, 50.0, torch.float64))
    frequencies = 50.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(
        1j * positions[:, None, None].double() * frequencies
    )
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shift", [1, 17, 1000])
def test_products_depend_on_distance_only(shift: int) -> None:
    q, k = (draw(1, 12, 1, 8, seed=seed).detach() for seed in (0, 1))

    def products(start: int) -> Tensor:
        rotation = rotation_at(torch.arange(start, start + 12), 8, 10_000.0, torch.float64)
        return rotate(q, rotation)[0, :, 0] @ rotate(k, rotation)[0, :, 0].T

    torch.testing.assert_close(products(shift), products(0), rtol=0, atol=1e-11)
    # One query against one key: the product is the same along every diagonal, and another on the next.
    rotation = rotation_at(torch.arange(12), 8, 10_000.0, torch.float64)
    same = rotate(q[:, :1].expand(-1, 12, -1, -1), rotation)[0, :, 0]
    scores = same @ rotate(k[:, :1].expand(-1, 12, -1, -1), rotation)[0, :, 0].T
    for distance in range(12):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)
    assert len({round(x, 9) for x in scores[:, 0].tolist()}) == 12


def test_rotation_keeps_length_and_is_exact_far_out() -> None:
    x = draw(1, 5, 2, 16).detach()
    positions = torch.tensor([0, 1, 100, 10_000, 1_000_000])
    turned = rotate(x, rotation_at(positions, 16, 10_000.0, torch.float64))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])
    near = rotation_at(positions[:4], 16, 10_000.0)[0].double()
    torch.testing.assert_close(
        near, rotation_at(positions[:4], 16, 10_000.0, torch.float64)[0], rtol=0, atol=2e-3
    )
    half = rotation_at(positions[:3], 16, 10_000.0, torch.bfloat16)[0]
    assert half.dtype == torch.bfloat16  # rounded at the end, not before the cosine
    torch.testing.assert_close(half.double(), near[:3], rtol=0, atol=2**-8)


# Hand-written gradients


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 5, 6)])
def test_norm_equals_plain(shape: tuple[int, ...]) -> None:
    x, weight = draw(*shape), draw(6, seed=1)
    assert_same(
        outcome(rms_norm, x, weight), outcome(lambda x, w: rms_norm(x, w, plain=True), x, weight), 1e-14
    )
    by_hand = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
    torch.testing.assert_close(rms_norm(x, weight), by_hand, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 0.1), (x, weight))


def test_norm_of_zero_is_finite() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    y, d_x, _ = outcome(rms_norm, x, torch.ones(4, requires_grad=True))
    assert (y == 0).all() and d_x.isfinite().all()


def test_norm_with_frozen_gain() -> None:
    x, weight = draw(3, 6), draw(6, seed=1)
    expected = outcome(lambda x: rms_norm(x, weight, plain=True), x)
    assert_same(outcome(lambda x: rms_norm(x, weight.detach()), x), expected, 1e-14)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 5, 8)])
def test_swiglu_equals_plain(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    assert_same(outcome(swiglu, x), outcome(lambda x: swiglu(x, plain=True), x), 1e-14)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(swiglu(x), gate / (1 + (-gate).exp()) * up, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(swiglu, (x,))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("positions", ["shared", "own"])
def test_queries_keys_values_equal_plain(kv_heads: int, positions: str) -> None:
    query_heads = 4
    qkv = draw(2, 5, query_heads + 2 * kv_heads, 6)
    gains = draw(6, seed=1), draw(6, seed=2)
    places = torch.arange(5) if positions == "shared" else torch.tensor([[0, 1, 2, 3, 4], [7, 8, 0, 1, 2]])
    rotation = rotation_at(places, 6, 30.0, torch.float64)

    def run(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, plain: bool = False) -> Tensor:
        parts = queries_keys_values(qkv, q_gain, k_gain, rotation, kv_heads=kv_heads, eps=0.01, plain=plain)
        assert [part.shape for part in parts] == [(2, n, 5, 6) for n in (query_heads, kv_heads, kv_heads)]
        return torch.cat(parts, 1)

    assert_same(outcome(run, qkv, *gains), outcome(lambda *x: run(*x, plain=True), qkv, *gains), 1e-13)


def test_queries_keys_values_finite_differences() -> None:
    qkv, gains = draw(1, 3, 4, 4), (draw(4, seed=1), draw(4, seed=2))
    rotation = rotation_at(torch.arange(3), 4, 30.0, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: queries_keys_values(*x, rotation, kv_heads=1, eps=0.01), (qkv, *gains)
    )


def test_plain_forms_have_second_derivatives() -> None:
    x, weight = draw(2, 4), draw(4, seed=1)
    assert torch.autograd.gradgradcheck(lambda x, w: rms_norm(x, w, 0.1, plain=True), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x: swiglu(x, plain=True), (x,))


@pytest.mark.parametrize("function", [lambda x: rms_norm(x, torch.ones(4, dtype=x.dtype)), swiglu])
def test_fast_forms_refuse_second_derivatives(function: Callable[[Tensor], Tensor]) -> None:
    x = draw(2, 4)
    (gradient,) = torch.autograd.grad((function(x) * x.sum()).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
