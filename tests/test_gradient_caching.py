"""Cached gradients equal those of the whole batch at once, also with dropout."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.losses import info_nce
from steepest.memory.gradient_caching import Encode, cached_gradient, length_sorted_chunks
from steepest.model import Transformer, TransformerConfig


def encoder(dtype: torch.dtype, dropout: float) -> Transformer:
    config = TransformerConfig(vocab_size=50, context=12, depth=2, width=32, dropout=dropout)
    trunk = Transformer(config, torch.Generator().manual_seed(0)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():  # zero-initialised outputs would hide errors below them
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                dtype
            )
    return trunk.train()


def chunks_of(trunk: Transformer, ids: Tensor, rows: int) -> list[Encode]:
    return [lambda part=part: trunk(part).mean(1) for part in ids.split(rows)]


def loss_of(z: Tensor, scale: Tensor) -> Tensor:
    z = F.normalize(z, dim=-1)
    return info_nce(z[: len(z) // 2], z[len(z) // 2 :], scale=scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cached_equals_full(dtype: torch.dtype, tolerance: float, dropout: float) -> None:
    ids = torch.randint(0, 50, (24, 12), generator=torch.Generator().manual_seed(2))
    gradients = []
    for cached in (True, False):
        trunk = encoder(dtype, dropout)
        scale = nn.Parameter(torch.tensor(10.0, dtype=dtype))
        torch.manual_seed(7)
        chunks = chunks_of(trunk, ids, 5)
        if cached:
            value = cached_gradient(chunks, partial(loss_of, scale=scale), random=dropout > 0)
        else:  # the same chunks, so that dropout draws in the same order, but all activations held
            value = loss_of(torch.cat([chunk() for chunk in chunks]), scale)
            value.backward()
        gradients.append([value.detach(), scale.grad, *(p.grad for p in trunk.parameters())])
    for mine, full in zip(*gradients, strict=True):
        assert (mine - full).norm() <= tolerance * full.norm()


def test_without_replay_dropout_gives_another_gradient() -> None:
    ids = torch.randint(0, 50, (24, 12), generator=torch.Generator().manual_seed(2))
    norms = []
    for random in (True, False):
        trunk = encoder(torch.float64, 0.3)
        torch.manual_seed(7)
        chunks = chunks_of(trunk, ids, 5)
        cached_gradient(chunks, lambda z: loss_of(z, torch.tensor(10.0)), random=random)
        norms.append(trunk.embedding.weight.grad)
    assert (norms[0] - norms[1]).norm() > 0.1 * norms[0].norm()


def test_the_generator_goes_on_as_if_everything_had_been_drawn_once() -> None:
    trunk = encoder(torch.float64, 0.3)
    ids = torch.randint(0, 50, (8, 12), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(7)
    cached_gradient(chunks_of(trunk, ids, 3), lambda z: z.sum())
    mine = torch.rand(3)
    torch.manual_seed(7)
    for part in ids.split(3):
        trunk(part)
    torch.testing.assert_close(mine, torch.rand(3), rtol=0, atol=0)


def test_chunks_hold_every_row_once_within_the_tokens() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    chunks = length_sorted_chunks(lengths, tokens=100)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(200))
    assert all(len(rows) * int(lengths[rows].max()) <= 100 for rows in chunks)
    assert len(chunks) < 200 / 2
    assert [rows.tolist() for rows in length_sorted_chunks(np.array([50, 60]), tokens=10)] == [[0], [1]]
