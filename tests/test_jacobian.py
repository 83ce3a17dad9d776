"""Jacobians against finite differences and against the dense answer, all in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from steepest.autograd import (
    extreme_singular_values,
    jacobian,
    jvp,
    rms_singular_value,
    singular_values,
    vjp,
)
from steepest.errors import ConfigError
from steepest.health import gradient_flow
from steepest.health.jacobians import block_maps, chained, depth_spectra
from steepest.health.sensitivity import next_token_outputs, token_sensitivity
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken
from test_gradient_flow import LENGTH, batch, objective


def smooth(inputs: int, outputs: int, seed: int = 0) -> tuple[object, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(24, inputs, generator=generator, dtype=torch.float64)
    second = torch.randn(outputs, 24, generator=generator, dtype=torch.float64)
    x = torch.randn(inputs, generator=generator, dtype=torch.float64)
    return (lambda x: second @ torch.tanh(first @ x * 0.3) + (x[:outputs] if outputs <= inputs else 0)), x


def trained(depth: int = 3, **fields: object) -> Transformer:
    config = TransformerConfig(vocab_size=31, depth=depth, width=32, context=32, **fields)
    trunk = Transformer(config, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return trunk


def test_products_are_those_of_finite_differences() -> None:
    f, x = smooth(7, 5)
    dense = jacobian(f, x)
    step = 1e-6
    for column in range(7):
        v = torch.zeros(7, dtype=torch.float64)
        v[column] = 1.0
        difference = (f(x + step * v) - f(x - step * v)) / (2 * step)
        torch.testing.assert_close(dense[:, column], difference, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(jvp(f, x, v), dense[:, column])
    for row in range(5):
        u = torch.zeros(5, dtype=torch.float64)
        u[row] = 1.0
        torch.testing.assert_close(vjp(f, x, u), dense[row])


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 40), (60, 20), (20, 60), (1, 3)])
def test_extremes_are_those_of_the_dense_matrix(inputs: int, outputs: int) -> None:
    f, x = smooth(inputs, outputs)
    values = singular_values(f, x)
    found = extreme_singular_values(f, x, generator=torch.Generator().manual_seed(0))
    assert found.largest == pytest.approx(values[0].item(), rel=1e-3)
    rank = min(inputs, outputs)
    if values[-1] > 1e-9:
        assert found.smallest == pytest.approx(values[-1].item(), rel=1e-3)
    assert found.steps <= rank


def test_bounds_hold_long_before_convergence() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(120, 120, generator=generator, dtype=torch.float64)
    values = torch.linalg.svdvals(matrix)
    before = math.inf
    for steps in (4, 8, 16, 32):
        found = extreme_singular_values(
            lambda x: matrix @ x, torch.zeros(120, dtype=torch.float64), steps=steps,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        assert found.largest <= values[0] * (1 + 1e-12) and found.smallest >= values[-1] * (1 - 1e-12)
        assert found.largest_error < before
        before = found.largest_error
        nearest = (values - found.largest).abs().min().item()
        assert nearest <= found.largest_error * found.largest * (1 + 1e-9)


def test_extremes_of_a_block_and_of_all_blocks() -> None:
    trunk = trained()
    maps, x = block_maps(trunk, torch.arange(4))  # 128 inputs
    for f, at in ((maps[0], x), (chained(maps), x)):
        values = singular_values(f, at)
        generator = torch.Generator().manual_seed(0)
        found = extreme_singular_values(f, at, steps=128, generator=generator)
        assert found.largest == pytest.approx(values[0].item(), rel=1e-3)
        assert found.smallest == pytest.approx(values[-1].item(), rel=1e-3)
        operator = LinearOperator(
            (128, 128), dtype=float,
            matvec=lambda v, f=f, at=at: jvp(f, at, torch.from_numpy(v.copy()).view_as(at)).flatten().numpy(),
            rmatvec=lambda u, f=f, at=at: vjp(f, at, torch.from_numpy(u.copy()).view_as(at)).flatten().numpy(),
        )  # fmt: skip
        (arpack,) = svds(operator, k=1, return_singular_vectors=False, random_state=0)
        assert found.largest == pytest.approx(arpack, rel=1e-3)
        rms = rms_singular_value(f, at, probes=64, generator=generator)
        assert rms == pytest.approx(values.square().mean().sqrt().item(), rel=0.1)


@pytest.mark.parametrize("coupling", ["residual", "reversible"])
def test_blocks_one_after_the_other_are_the_trunk(coupling: str) -> None:
    trunk = trained(coupling=coupling)
    ids = torch.arange(9)
    maps, x = block_maps(trunk, ids)
    out = chained(maps)(x)
    out = out if coupling == "residual" else out.mean(0)
    torch.testing.assert_close(trunk.norm(out), trunk(ids[None])[0], rtol=1e-6, atol=1e-6)


def test_spectra_by_products_are_those_of_the_dense_matrices() -> None:
    trunk, ids = trained(), torch.arange(3)
    dense = depth_spectra(trunk, ids)
    products = depth_spectra(trunk, ids, dense=0, steps=96)
    assert len(dense[0].block.values) == 3 * 32 and not products[0].block.values
    for a, b in zip(dense, products, strict=True):
        for known, found in ((a.block, b.block), (a.product, b.product)):
            assert found.largest == pytest.approx(known.largest, rel=1e-3)
            assert found.rms == pytest.approx(known.rms, rel=0.3)
    maps, x = block_maps(trunk, ids)
    torch.testing.assert_close(
        torch.tensor(dense[-1].product.values, dtype=torch.float64), singular_values(chained(maps), x)
    )


def test_a_jacobian_too_large_to_write_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="5000 x 5000 is too large"):
        jacobian(torch.sin, torch.zeros(5000))


def test_sensitivity_is_that_of_finite_differences_and_the_future_changes_nothing() -> None:
    model = objective().double()
    ids = torch.randint(0, 31, (LENGTH,), generator=torch.Generator().manual_seed(3))
    outputs = next_token_outputs(model, ids)
    found = token_sensitivity(model.trunk, ids, outputs, rows=5)
    assert (found.triu(1) == 0).all() and (found.diagonal() > 0).all()
    table = model.trunk.embedding.weight.detach().clone()

    def at(position: int, change: Tensor) -> Tensor:
        def add(module: object, args: object, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, position] += change
            return out

        handle = model.trunk.embedding.register_forward_hook(add)
        with torch.no_grad():
            value = outputs(model.trunk(ids[None]))[0]
        handle.remove()
        return value

    step, width = 1e-6, table.shape[1]
    for position in (0, 5, LENGTH - 1):
        columns = []
        for channel in range(width):
            v = torch.zeros(width, dtype=torch.float64)
            v[channel] = step
            columns.append((at(position, v) - at(position, -v)) / (2 * step))
        expected = torch.stack(columns).norm(dim=0) * table[ids[position]].norm()
        torch.testing.assert_close(found[:, position], expected, rtol=1e-5, atol=1e-7)
    assert model.trunk.training


@pytest.mark.parametrize(("depth", "scale"), [(2, 0.05), (6, 0.15), (6, 0.4)])
def test_the_streams_gradient_tells_the_jacobians_size(depth: int, scale: float) -> None:
    config = TransformerConfig(vocab_size=31, depth=depth, width=32, context=LENGTH)
    model = NextToken(Transformer(config, torch.Generator().manual_seed(0)), np.ones(31, dtype=np.int64))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    ratio = gradient_flow(model, batch(rows=1))["first_to_last"]
    rms = depth_spectra(model.trunk.double(), batch(rows=1).ids_BT[0])[-1].product.rms
    assert rms / 2 < ratio < 2 * rms
