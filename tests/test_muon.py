"""Muon against torch's own, against a float64 twin one matrix at a time, and against the singular vectors."""

import math

import pytest
import torch
from torch import Tensor

from steepest.errors import ConfigError
from steepest.optim import Muon, newton_schulz
from steepest.optim.muon import JORDAN, POLAR_EXPRESS, product_dtype

SHAPES = [(6, 6), (6, 6), (4, 10), (10, 4), (10, 4), (7, 3), (1, 5), (5, 1)]


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(weights: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def twin_step(
    weight: Tensor, grad: Tensor, buffer: Tensor, *, lr: float, decay: float, momentum: float, nesterov: bool
) -> None:
    """The formula of the module, for one matrix, in float64, without transposing."""
    buffer.copy_(momentum * buffer + (1 - momentum) * grad)
    update = momentum * buffer + (1 - momentum) * grad if nesterov else buffer.clone()
    update = update / torch.sqrt((update * update).sum())
    for a, b, c in JORDAN:
        gram = update @ update.T
        update = a * update + (b * gram + c * gram @ gram) @ update
    rows, columns = weight.shape
    weight.copy_((1 - lr * decay) * weight - 0.2 * lr * math.sqrt(max(rows, columns)) * update)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_the_plain_twin(nesterov: bool, decay: float) -> None:
    weights = parameters(SHAPES)
    optimizer = Muon(
        weights, lr=0.03, weight_decay=decay, momentum=0.9, nesterov=nesterov, coefficients=JORDAN
    )
    expected = [weight.detach().clone() for weight in weights]
    buffers = [torch.zeros_like(weight) for weight in expected]
    for step in range(5):
        set_gradients(weights, step)
        for weight, copy, buffer in zip(weights, expected, buffers, strict=True):
            assert weight.grad is not None
            twin_step(copy, weight.grad, buffer, lr=0.03, decay=decay, momentum=0.9, nesterov=nesterov)
        optimizer.step()
    for weight, copy in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.data, copy, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_torch_to_the_precision_of_its_bfloat16(nesterov: bool) -> None:
    shapes = [(32, 32), (32, 32), (48, 16), (16, 48)]
    ours, theirs = parameters(shapes, torch.float32), parameters(shapes, torch.float32)
    start = [weight.detach().clone() for weight in ours]
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": nesterov}
    optimizers = [
        Muon(ours, coefficients=JORDAN, dtype=torch.float32, **settings),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    ]
    for step in range(10):
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            set_gradients(weights, step)
            optimizer.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert (one - other).norm() < 0.03 * (other - before).norm()


@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 16, 40), (3, 40, 16)])
@pytest.mark.parametrize("coefficients", [JORDAN, POLAR_EXPRESS[:5], POLAR_EXPRESS], ids=["jordan", "5", "6"])
def test_newton_schulz_approaches_the_polar_factor(
    shape: tuple[int, ...], coefficients: tuple[tuple[float, float, float], ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    x = (u * s.clamp(min=0.01 * s.amax())[:, None, :]) @ vh
    result = newton_schulz(x, coefficients)
    # Same singular vectors: U^T result V is diagonal, and its diagonal, the new singular values, is near 1.
    core = u.mT @ result @ vh.mT
    values = core.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(core, torch.diag_embed(values), rtol=0, atol=1e-9)
    error = {JORDAN: 0.35, POLAR_EXPRESS[:5]: 0.14, POLAR_EXPRESS: 0.03}[coefficients]
    assert (values - 1).abs().max() < error


def test_newton_schulz_applies_its_polynomial_to_singular_values() -> None:
    values = torch.linspace(0.05, 0.6, 5, dtype=torch.float64)
    values /= values.norm()
    result = newton_schulz(torch.diag(values)[None])[0]
    expected = values
    for a, b, c in POLAR_EXPRESS[:5]:
        expected = a * expected + b * expected**3 + c * expected**5
    torch.testing.assert_close(result, torch.diag(expected))


def test_update_has_the_size_of_an_adamw_update() -> None:
    """The root mean square of the update is 0.2 lr, whatever the shape."""
    for shape in [(64, 64), (64, 256), (256, 64)]:
        (weight,) = parameters([shape])
        before = weight.detach().clone()
        optimizer = Muon([weight], lr=0.5, weight_decay=0.0, coefficients=POLAR_EXPRESS)
        set_gradients([weight], 0)
        optimizer.step()
        assert (weight - before).square().mean().sqrt().item() == pytest.approx(0.1, rel=0.03)


def test_split_parameter_equals_its_parts() -> None:
    whole = parameters([(12, 5)])
    parts = [torch.nn.Parameter(part.clone()) for part in whole[0].detach().split([6, 2, 4])]
    one = Muon([{"params": whole, "splits": [6, 2, 4]}], lr=0.1)
    many = Muon(parts, lr=0.1)
    fused = parameters([(12, 5)])
    other = Muon(fused, lr=0.1)
    for step in range(3):
        set_gradients(whole, step)
        assert whole[0].grad is not None
        fused[0].grad = whole[0].grad.clone()
        for part, grad in zip(parts, whole[0].grad.split([6, 2, 4]), strict=True):
            part.grad = grad.clone()
        one.step()
        many.step()
        other.step()
    torch.testing.assert_close(whole[0].data, torch.cat([part.data for part in parts]), rtol=1e-12, atol=0)
    assert not torch.allclose(whole[0], fused[0], atol=1e-3)  # as one matrix it is another algorithm


def test_gradients_absent_or_zero_do_no_harm() -> None:
    first, second = parameters([(4, 4), (4, 4)])
    before = [first.detach().clone(), second.detach().clone()]
    optimizer = Muon([first, second], lr=0.1, weight_decay=0.0)
    second.grad = torch.zeros_like(second)
    optimizer.step()
    assert torch.equal(first.data, before[0]) and torch.equal(second.data, before[1])
    assert first not in optimizer.state


def test_groups_keep_their_own_rates() -> None:
    slow, fast = parameters([(4, 4), (4, 4)])
    before = [slow.detach().clone(), fast.detach().clone()]
    optimizer = Muon([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 0.3}], weight_decay=0.0)
    slow.grad = fast.grad = torch.eye(4, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(3 * (slow.data - before[0]), fast.data - before[1])


def test_closure_is_called_with_gradients_enabled() -> None:
    (weight,) = parameters([(2, 2)])
    optimizer = Muon([weight])

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    before = weight.detach().square().sum().item()
    assert optimizer.step(closure) == pytest.approx(before)
    assert not torch.equal(weight, parameters([(2, 2)])[0])


def test_products_run_in_the_parameter_s_dtype_where_bfloat16_is_not_native(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native, False)
        assert product_dtype(torch.zeros(1)) == expected


def test_what_is_not_a_matrix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3,\): give it to AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
    with pytest.raises(ConfigError, match=r"splits \(2, 3\) must add up"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(4, 2))], "splits": [2, 3]}])


@pytest.mark.gpu
def test_on_a_gpu_it_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    here = parameters([(64, 64), (64, 160)], torch.float32)
    there = [torch.nn.Parameter(weight.detach().cuda()) for weight in here]
    start = [weight.detach().clone() for weight in here]
    for weights in (here, there):
        optimizer = Muon(weights, lr=0.02, dtype=torch.float32 if weights is here else None)
        for step in range(5):
            set_gradients(here, step)
            for weight, source in zip(weights, here, strict=True):
                assert source.grad is not None
                weight.grad = source.grad.to(weight.device)
            optimizer.step()
    for one, other, before in zip(here, there, start, strict=True):
        assert (one - other.cpu()).norm() < 0.05 * (one - before).norm()
