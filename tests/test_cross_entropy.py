"""Chunked cross-entropy against torch's on whole logits, closed forms and finite differences."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from steepest.data.batches import Batch
from steepest.losses import IGNORE_INDEX, chunked_cross_entropy, chunked_token_losses, cross_entropy
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken

N, D, V = 37, 6, 19
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def inputs(
    dtype: torch.dtype = torch.float64, n: int = N, d: int = D, v: int = V, ignored: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(v, (n,), generator=generator)
    targets[torch.randperm(n, generator=generator)[:ignored]] = IGNORE_INDEX
    return hidden, weight, targets


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, ignore: int = -100) -> Tensor:
    """The formula on the whole logits, by torch."""
    logits = hidden @ weight.T
    loss = F.cross_entropy(logits, targets, ignore_index=ignore, reduction="sum")
    return loss + z_loss * logits.logsumexp(1)[targets != ignore].square().sum()


def value_and_gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_near(got: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float) -> None:
    """Largest difference, relative to the largest value of the tensor."""
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    largest = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [None, 1, 7, N - 1, N, N + 1])
def test_equals_torch_on_whole_logits(dtype: torch.dtype, z_loss: float, chunk: int | None) -> None:
    hidden, weight, targets = inputs(dtype)
    got = chunked_cross_entropy(hidden, weight, targets, chunk=chunk, z_loss=z_loss)
    assert_near(
        value_and_gradients(got, hidden, weight),
        value_and_gradients(whole(hidden, weight, targets, z_loss), hidden, weight),
        TOLERANCE[dtype],
    )


def test_plain_is_a_sum_over_counted_targets() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([3, IGNORE_INDEX, 0, 4])
    expected = -sum(math.log(logits[n].softmax(0)[t]) for n, t in enumerate(targets.tolist()) if t >= 0)
    assert cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-14)


def test_any_ignore_index() -> None:
    hidden, weight, _ = inputs()
    targets = torch.arange(N) % V
    got = chunked_cross_entropy(hidden, weight, targets, ignore_index=3, chunk=5)
    assert_near(
        value_and_gradients(got, hidden, weight),
        value_and_gradients(whole(hidden, weight, targets, ignore=3), hidden, weight),
        1e-12,
    )


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_ignored_rows_give_exactly_nothing(z_loss: float) -> None:
    hidden, weight, targets = inputs(torch.float32)
    loss = chunked_cross_entropy(hidden, weight, targets, z_loss=z_loss, chunk=4)
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    counted = targets != IGNORE_INDEX
    assert (d_hidden[~counted] == 0).all() and (d_hidden[counted] != 0).any(1).all()
    moved = hidden.detach().clone()
    moved[~counted] += 10
    moved.requires_grad_()
    again = chunked_cross_entropy(moved, weight, targets, z_loss=z_loss, chunk=4)
    assert torch.equal(again, loss) and torch.equal(torch.autograd.grad(again, weight)[0], d_weight)


@pytest.mark.parametrize("n", [0, 3])
def test_no_counted_target_is_zero(n: int) -> None:
    hidden, weight, _ = inputs(n=n, ignored=0)
    loss = chunked_cross_entropy(hidden, weight, torch.full((n,), IGNORE_INDEX))
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0 and not d_hidden.any() and not d_weight.any()


def test_z_loss_closed_form() -> None:
    # Equal logits c: log Z = c + log V, the loss log V + z (c + log V)^2, whatever the target.
    hidden = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.full((V, 1), 1.5, dtype=torch.float64, requires_grad=True)
    loss = chunked_cross_entropy(hidden, weight, torch.tensor([2]), z_loss=0.25)
    log_z = 1.5 + math.log(V)
    assert loss.item() == pytest.approx(math.log(V) + 0.25 * log_z**2, rel=1e-14)
    _, d_weight = torch.autograd.grad(loss, (hidden, weight))
    expected = torch.full((V, 1), (1 + 2 * 0.25 * log_z) / V, dtype=torch.float64)
    expected[2] -= 1
    torch.testing.assert_close(d_weight, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_extreme_logits_stay_finite(size: float) -> None:
    hidden, weight, targets = inputs(torch.float32)
    hidden = (hidden.detach() * size).requires_grad_()
    got = chunked_cross_entropy(hidden, weight, targets, chunk=8)
    assert_near(
        value_and_gradients(got, hidden, weight),
        value_and_gradients(whole(hidden, weight, targets), hidden, weight),
        1e-6,
    )


@pytest.mark.parametrize("of", ["hidden", "weight"])
def test_only_one_gradient_is_needed(of: str) -> None:
    hidden, weight, targets = inputs()
    leaf, other = (hidden, weight) if of == "hidden" else (weight, hidden)
    other.requires_grad_(False)
    chunked_cross_entropy(hidden, weight, targets, chunk=8).backward()
    assert other.grad is None and leaf.grad is not None
    torch.testing.assert_close(
        leaf.grad, torch.autograd.grad(whole(hidden, weight, targets), leaf)[0], rtol=0, atol=1e-12
    )


def test_upstream_scale_and_sums_of_micro_batches() -> None:
    hidden, weight, targets = inputs()
    expected = value_and_gradients(whole(hidden, weight, targets) / 7, hidden, weight)
    scaled = chunked_cross_entropy(hidden, weight, targets, chunk=8) / 7
    assert_near(value_and_gradients(scaled, hidden, weight), expected, 1e-12)
    parts = [slice(0, 11), slice(11, N)]
    summed = sum((chunked_cross_entropy(hidden[p], weight, targets[p]) / 7 for p in parts), torch.zeros(()))
    assert_near(value_and_gradients(summed, hidden, weight), expected, 1e-12)


@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_finite_differences(z_loss: float) -> None:
    hidden, weight, targets = inputs(n=5, d=3, v=4, ignored=1)

    def loss() -> Tensor:
        return chunked_cross_entropy(hidden, weight, targets, chunk=2, z_loss=z_loss)

    # By hand: torch's gradcheck differentiates one call several times, which this loss refuses.
    for leaf, gradient in zip((hidden, weight), torch.autograd.grad(loss(), (hidden, weight)), strict=True):
        values, slopes = leaf.detach().view(-1), gradient.view(-1)
        for i, value in enumerate(values.tolist()):
            sides = []
            for step in (1e-5, -1e-5):
                values[i] = value + step
                sides.append(loss().item())
            values[i] = value
            assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(slopes[i].item(), rel=1e-7, abs=1e-9)


def test_second_backward_raises() -> None:
    hidden, weight, targets = inputs()
    loss = chunked_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        loss.backward()
    once = chunked_cross_entropy(hidden, weight, targets)
    (d_hidden,) = torch.autograd.grad(once * hidden.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_hidden.sum().backward()


def test_bfloat16_autocast() -> None:
    hidden, weight, targets = inputs(torch.float32, n=200, d=32, v=50)
    with torch.no_grad():
        weight /= 4
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, targets, chunk=32)
    got = value_and_gradients(loss, hidden, weight)
    exact = value_and_gradients(whole(hidden, weight, targets), hidden, weight)
    # Products of bfloat16 numbers, the rest in float32: as near as torch's own product under autocast.
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.01 * b.norm()
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(*wide, targets)
    assert_near(value_and_gradients(loss, *wide), value_and_gradients(whole(*wide, targets), *wide), 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chunk", [None, 1, 8])
def test_token_losses(dtype: torch.dtype, chunk: int | None) -> None:
    hidden, weight, targets = inputs(dtype)
    nats, correct = chunked_token_losses(hidden, weight, targets, chunk=chunk)
    logits = (hidden @ weight.T).detach()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
    assert_near([nats], [expected], TOLERANCE[dtype])
    assert torch.equal(correct, logits.argmax(1) == targets) and 0 < correct.sum() < N
    blank = torch.zeros_like(hidden)  # all logits equal: a model that knows nothing is never right
    assert not chunked_token_losses(blank, weight, targets, chunk=chunk)[1].any()
    assert not nats.requires_grad


def test_whole_logits_are_never_made() -> None:
    n, d, v, chunk = 512, 8, 256, 32
    hidden, weight, targets = inputs(torch.float32, n, d, v)
    with LargestTensor() as plain:
        whole(hidden, weight, targets).backward()
    assert plain.largest == n * v
    with LargestTensor() as chunked:
        chunked_cross_entropy(hidden, weight, targets, chunk=chunk, z_loss=0.1).backward()
    assert chunked.largest == chunk * v
    with LargestTensor() as chunked:
        chunked_token_losses(hidden, weight, targets, chunk=chunk)
    assert chunked.largest == chunk * v


def test_default_chunk_is_bounded() -> None:
    hidden, weight, targets = inputs(torch.float32, 300, 2, 20_000)
    with torch.no_grad(), LargestTensor() as chunked:
        chunked_token_losses(hidden, weight, targets)
    assert chunked.largest == 128 * 20_000


@pytest.mark.parametrize(
    "shapes", [((4, 3), (5, 2), (4,)), ((4, 3), (5, 3), (3,)), ((2, 4, 3), (5, 3), (2, 4))]
)
def test_wrong_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    hidden, weight, targets = (torch.zeros(shape) for shape in shapes)
    for function in (chunked_cross_entropy, chunked_token_losses):
        with pytest.raises(ValueError, match="expected hidden"):
            function(hidden, weight, targets.long())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("vocab_size", [2, 27, 65, 257, 2048, 16384])
def test_loss_at_initialisation_is_log_vocabulary(vocab_size: int, depth: int, tied: bool) -> None:
    config = TransformerConfig(vocab_size=vocab_size, depth=depth, context=64, tie_embeddings=tied)
    generator = torch.Generator().manual_seed(depth)
    objective = NextToken(Transformer(config, generator), np.ones(vocab_size, dtype=np.int64))
    ids = torch.randint(vocab_size, (4, 65), generator=generator)
    # Random targets, and the worst for a tied head: no token follows itself.
    for targets in (ids[:, 1:], (ids[:, :-1] + 1) % vocab_size):
        batch = Batch(ids[:, :-1], targets.contiguous(), None, targets.numel())
        with torch.no_grad():
            loss = objective.loss(batch).item() / batch.n_targets
        assert loss == pytest.approx(math.log(vocab_size), rel=0.01)
