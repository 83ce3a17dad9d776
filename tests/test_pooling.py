"""Padding: batches sorted by length are whole epochs; a text's vector does not depend on its company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.data.padding import RaggedIds, batches_an_epoch, sorted_batches
from steepest.model import Transformer, TransformerConfig
from steepest.objectives.pooling import inside, mean_pool, visible


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.integers(1, 7))
def test_every_row_comes_once_an_epoch(n: int, batch: int, epoch: int, pool: int) -> None:
    lengths = np.arange(n) % 13
    batches = sorted_batches(lengths, batch=batch, seed=1, epoch=epoch, pool=pool)
    assert len(batches) == batches_an_epoch(n, batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_sorting_leaves_little_to_fill_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 5000)

    def filled(pool: int) -> float:
        batches = sorted_batches(lengths, batch=32, seed=0, epoch=0, pool=pool)
        return sum(len(rows) * lengths[rows].max() for rows in batches) / lengths.sum()

    assert filled(1) > 1.8
    assert filled(50) < 1.05
    one, other = (sorted_batches(lengths, batch=32, seed=0, epoch=epoch) for epoch in (0, 1))
    assert any(set(a.tolist()) != set(b.tolist()) for a, b in zip(one, other, strict=True))
    again = sorted_batches(lengths, batch=32, seed=0, epoch=0)
    assert all((a == b).all() for a, b in zip(one, again, strict=True))


def test_rows_are_cut_at_the_context_and_empty_ones_have_a_place() -> None:
    rows = RaggedIds.join([[1, 2, 3, 4], []])
    ids_BT, lengths_B = rows.pad(np.array([0, 1]), context=3, fill=7)
    assert ids_BT.tolist() == [[1, 2, 3], [7, 7, 7]]
    assert lengths_B.tolist() == [3, 0]
    assert RaggedIds.join([[]]).pad(np.array([0]), context=3)[0].shape == (1, 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_texts_vector_is_the_same_in_any_company(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    trunk = Transformer(TransformerConfig(vocab_size=50, depth=2, width=32), generator)
    for parameter in trunk.parameters():  # the zero projections would make every block an identity
        torch.nn.init.normal_(parameter, 0.0, 0.3, generator=generator) if parameter.ndim > 1 else None
    rows = RaggedIds.join([[3, 4, 5], [6, 7, 8, 9, 10, 11], [12]])
    weights_V = torch.rand(50, generator=generator)

    def vectors(which: list[int]) -> torch.Tensor:
        ids_BT, lengths_B = rows.pad(np.array(which), context=64)
        hidden = trunk(ids_BT, mask=visible(lengths_B, ids_BT.shape[1]))
        return mean_pool(hidden, lengths_B, weights_V[ids_BT] if weighted else None)

    together, alone = vectors([0, 1, 2]), torch.cat([vectors([0]), vectors([1]), vectors([2])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_attention_sees_both_directions_and_no_padding() -> None:
    trunk = Transformer(TransformerConfig(vocab_size=50, depth=1, width=32), torch.Generator().manual_seed(0))
    torch.nn.init.normal_(trunk.blocks[0].attention.out.weight)  # type: ignore[union-attr, arg-type]
    hidden = trunk.embedding.weight.new_zeros(0)
    ids_BT, lengths_B = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([3])
    table = trunk.embedding.weight.detach().requires_grad_()
    hidden = torch.func.functional_call(
        trunk, {"embedding.weight": table}, (ids_BT,), {"mask": visible(lengths_B, 5)}
    )
    (gradient,) = torch.autograd.grad(hidden[0, 0].square().sum() + hidden[0, 0].sum(), table)
    reached = gradient.abs().sum(1) > 0
    assert reached[[1, 2, 3]].all(), "the first token must see those after it"
    assert not reached[[4, 5]].any(), "padding must not be seen"


def test_a_mean_is_over_the_tokens_alone() -> None:
    hidden_BTD = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    lengths_B = torch.tensor([5, 2, 0])
    expected = torch.stack([hidden_BTD[0].mean(0), hidden_BTD[1, :2].mean(0), hidden_BTD[2, :1].mean(0)])
    torch.testing.assert_close(mean_pool(hidden_BTD, lengths_B), expected)
    assert inside(lengths_B, 5).sum(1).tolist() == [5, 2, 1]
