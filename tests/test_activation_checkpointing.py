"""Recomputed blocks: the gradient of stored ones bit for bit, for any number of them, and less held."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steepest.data import Batch
from steepest.errors import ConfigError
from steepest.memory.activation_checkpointing import run_layers
from steepest.objectives import NextToken
from test_reversible import (
    CONTEXT,
    VOCABULARY,
    held_bytes,
    loss_and_gradient,
    make_ids,
    make_trunk,
    needs_compiler,
)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_recomputed_and_stored_give_the_same_bits(blocks: int, dropout: float, autocast: bool) -> None:
    trunk = make_trunk(5, coupling="residual", dropout=dropout)
    assert trunk.backward == "store"
    stored = loss_and_gradient(trunk, autocast=autocast)
    trunk.set_backward("recompute", blocks)
    recomputed = loss_and_gradient(trunk, autocast=autocast)
    for one, other in zip(recomputed, stored, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_accumulated_micro_batches_and_a_document_mask() -> None:
    ids = make_ids(4)
    documents = torch.arange(CONTEXT).ge(5).long().expand(4, -1)
    batch = Batch(ids, ids.roll(-1, 1), documents, ids.numel())
    found = []
    for blocks in (0, 2, 3):
        objective = NextToken(make_trunk(3, coupling="residual", dropout=0.2), np.ones(VOCABULARY, np.int64))
        with torch.no_grad():
            objective.head.matrix.copy_(
                torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0))
            )
        objective.trunk.set_backward(recompute_blocks=blocks)
        assert objective.trunk.backward == ("recompute" if blocks else "store")
        torch.manual_seed(0)
        objective.accumulate_gradient(batch, micro_batch=1)
        found.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=0)


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_blocks_give_the_same_bits_as_compiled_and_stored() -> None:
    trunk = make_trunk(2, coupling="residual")
    eager = loss_and_gradient(trunk)
    trunk.compile_blocks()
    stored = loss_and_gradient(trunk)
    trunk.set_backward("recompute", 1)
    recomputed = loss_and_gradient(trunk)
    torch.testing.assert_close(recomputed[1], stored[1], rtol=0, atol=0)
    torch.testing.assert_close(recomputed[1], eager[1], rtol=1e-4, atol=1e-4)  # other kernels, other rounding


@pytest.mark.parametrize("recompute", [0, 2, 3])
def test_gradient_is_that_of_finite_differences(recompute: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double() for _ in range(3)]
    x = torch.randn(2, 3, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run_layers(layers, x, recompute=recompute), (x,))


def test_every_recomputed_block_holds_its_input_only() -> None:
    stored = held_bytes(4, coupling="residual")
    held = [held_bytes(4, coupling="residual", recompute=k) for k in range(5)]
    assert held[0] == stored
    freed = [before - after for before, after in pairwise(held)]
    stream = 3 * CONTEXT * 64 * 4
    assert len(set(freed)) == 1  # every block frees the same
    assert freed[0] > 10 * stream


def test_layers_are_run_again_once_each_and_only_the_first() -> None:
    calls: list[str] = []

    def layer(name: str) -> nn.Module:
        class Named(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                calls.append(name)
                return x.sin()

        return Named()

    x = torch.ones(2, requires_grad=True)
    out = run_layers([layer("a"), layer("b"), layer("c")], x, recompute=2)
    assert calls == ["a", "b", "c"]
    out.sum().backward()
    assert calls == ["a", "b", "c", "b", "a"]


@pytest.mark.parametrize("recompute", [-1, 3])
def test_more_blocks_than_there_are(recompute: int) -> None:
    with pytest.raises(ConfigError, match=rf"{recompute} blocks .* has 2: give 0 to 2"):
        run_layers([torch.sin, torch.cos], torch.ones(1), recompute=recompute)
