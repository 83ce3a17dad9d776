"""The contrastive objective: its start is an IDF bag, its cached gradient is the whole one, its figures are true."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from steepest.data.pair_batches import EncodedPairs, PairBatch, PairBatches
from steepest.data.pairs import PairTable
from steepest.errors import ConfigError, DataError
from steepest.health import gradient_flow
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import Contrastive, ContrastiveConfig
from steepest.tokenizer import bytes_tokenizer

TOKENIZER = bytes_tokenizer()


def table(form: str = "pairs", n: int = 24) -> PairTable:
    dice = np.random.default_rng(0)
    text = ["".join(chr(97 + c) for c in dice.integers(0, 26, dice.integers(2, 20))) for _ in range(3 * n)]
    if form == "classes":
        return PairTable(
            "t", "classes", (), [(t,) for t in text[:n]], [f"c{at % 6}" for at in range(n)], np.zeros(0)
        )
    if form == "scores":
        rows = list(zip(text[:n], text[n : 2 * n], strict=True))
        return PairTable("t", "scores", (), rows, [], dice.random(n))
    if form == "negatives":
        return PairTable(
            "t",
            "pairs",
            (),
            list(zip(text[:n], text[n : 2 * n], text[2 * n :], strict=True)),
            [],
            np.zeros(0),
        )
    return PairTable("t", "pairs", (), list(zip(text[:n], text[n : 2 * n], strict=True)), [], np.zeros(0))


def objective(form: str = "pairs", depth: int = 2, **fields: Any) -> Contrastive:
    form = "pairs" if form == "negatives" else form
    metric = {"pairs": "recall@1", "classes": "map@r", "scores": "spearman"}[form]
    config = ContrastiveConfig(form=form, metric=metric, **{"token_dropout": 0.0, **fields})  # type: ignore[arg-type]
    model = TransformerConfig(vocab_size=257, context=24, depth=depth, width=32)
    made = Contrastive(Transformer(model, torch.Generator().manual_seed(1)), config, torch.rand(257) + 0.5)
    with torch.no_grad():  # blocks that do something
        for name, parameter in made.named_parameters():
            if "out" in name or "down" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return made


def batch_of(form: str) -> PairBatch:
    return EncodedPairs.encode(table(form), TOKENIZER, 24).batch(np.arange(24), context=24)


def gradient(made: Contrastive, batch: PairBatch, micro_batch: int) -> tuple[float, dict[str, torch.Tensor]]:
    made.zero_grad()
    value = made.accumulate_gradient(batch, micro_batch=micro_batch)
    return float(value), {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["pairs", "classes", "scores", "negatives"])
def test_gradient_in_chunks_is_the_whole_one(form: str) -> None:
    made, batch = objective(form).double(), batch_of(form)
    value, whole = gradient(made, batch, 1000)
    again, cached = gradient(made, batch, 4)
    assert value == pytest.approx(again, rel=1e-6)  # a pooled embedding is float32
    for name in whole:
        torch.testing.assert_close(cached[name], whole[name], rtol=1e-5, atol=1e-8)


def test_a_step_with_dropout_is_the_gradient_of_what_the_loss_saw() -> None:
    made, batch = objective(token_dropout=0.3).train(), batch_of("pairs")
    torch.manual_seed(5)
    _, cached = gradient(made, batch, 4)
    torch.manual_seed(5)
    # The same masks in one graph: the chunks in order, no replay needed.
    from steepest.memory.gradient_caching import length_sorted_chunks

    chunks = length_sorted_chunks(np.maximum(batch.lengths, 1), 4 * 24)
    rows = [
        made.encode(batch.ids_BT[torch.from_numpy(c), : batch.lengths[c].max()], batch.lengths[c])
        for c in chunks
    ]
    place = torch.from_numpy(np.argsort(np.concatenate(chunks)))
    made.zero_grad()
    made.loss_of(torch.cat(rows)[place], batch).backward()
    for name, parameter in made.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(cached[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_without_blocks_it_is_a_bag_of_normalised_vectors_weighted_by_idf() -> None:
    made, batch = objective(depth=0).eval(), batch_of("pairs")
    vectors = F.normalize(made.trunk.embedding.weight, dim=1) * 32**0.5
    weights = made.log_weights_V.exp()
    for row, (ids, length) in enumerate(zip(batch.ids_BT, batch.lengths, strict=True)):
        ids = ids[: max(1, length)]
        expected = F.normalize((weights[ids, None] * vectors[ids]).sum(0), dim=0)
        torch.testing.assert_close(made.embed(batch)[row], expected, rtol=1e-4, atol=1e-5)


def test_fresh_blocks_change_nothing_of_the_bag() -> None:
    batch = batch_of("pairs")
    bag, deep = objective(depth=0).eval(), objective(depth=2).eval()
    with torch.no_grad():
        for name, parameter in deep.named_parameters():
            if "out" in name or "down" in name:
                parameter.zero_()
        deep.trunk.embedding.weight.copy_(bag.trunk.embedding.weight)
        deep.log_weights_V.copy_(bag.log_weights_V)
    torch.testing.assert_close(deep.embed(batch), bag.embed(batch), rtol=1e-4, atol=1e-5)


def test_padding_and_company_do_not_matter() -> None:
    made, encoded = objective().eval(), EncodedPairs.encode(table(), TOKENIZER, 24)
    together = made.embed(encoded.batch(np.arange(24), context=24))
    alone = made.embed(encoded.batch(np.array([7]), context=24))
    torch.testing.assert_close(alone, together[14:16], rtol=1e-4, atol=1e-5)


def test_equal_texts_are_no_negatives_of_each_other() -> None:
    rows = [("a", "x"), ("a", "y"), ("b", "y"), ("c", "z")]
    encoded = EncodedPairs.encode(PairTable("t", "pairs", (), rows, [], np.zeros(0)), TOKENIZER, 24)
    groups = encoded.batch(np.arange(4), context=24).groups_R.tolist()
    assert groups[0] == groups[1] == groups[2] != groups[3]
    rows3 = [("a", "x", "y"), ("b", "y", "q")]
    encoded = EncodedPairs.encode(PairTable("t", "pairs", (), rows3, [], np.zeros(0)), TOKENIZER, 24)
    batch = encoded.batch(np.arange(2), context=24)
    assert batch.negative_groups.tolist() == [int(batch.groups_R[1]), -1]  # "y" belongs to the second query


@pytest.mark.parametrize("form", ["pairs", "classes"])
def test_every_row_comes_once_an_epoch_whatever_the_step(form: str) -> None:
    batches = PairBatches(EncodedPairs.encode(table(form), TOKENIZER, 24), context=24, rows=6, seed=3)
    steps = batches.a_epoch // 6
    first = np.concatenate([batches.at(step).rows for step in range(steps)])
    assert sorted(first.tolist()) == list(range(24)) and batches.n_sequences == 24 * batches.pairs.width
    again = PairBatches(batches.pairs, context=24, rows=6, seed=3)
    np.testing.assert_array_equal(again.at(7).rows, batches.at(7).rows)
    if form == "classes":
        classes = batches.pairs.classes_N[batches.at(0).rows]
        assert all((classes == one).sum() > 1 for one in classes)
    with pytest.raises(DataError, match="distinct texts"):
        PairBatches(batches.pairs, context=24, rows=99, seed=3)


def test_any_loss_of_embeddings_and_labels(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def loss(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return (embeddings**2).sum()

    config = ContrastiveConfig(form="pairs", metric="mrr", token_dropout=0.0)
    trunk = Transformer(TransformerConfig(vocab_size=257, context=24, depth=0, width=32))
    made, batch = Contrastive(trunk, config, loss=loss), batch_of("pairs")
    assert float(made.loss(batch).detach()) / 24 == pytest.approx(48, rel=1e-5)  # every row has length one
    assert (seen[0].reshape(24, 2)[:, 0] == seen[0].reshape(24, 2)[:, 1]).all()
    assert len(seen[0].unique()) == 24
    wrong = Contrastive(trunk, config, loss=lambda embeddings, labels: embeddings)
    with pytest.raises(ConfigError, match="must return one number"):
        wrong.loss(batch)


def test_the_temperature_is_learned_and_clamped() -> None:
    made, batch = objective(), batch_of("pairs")
    made.accumulate_gradient(batch, micro_batch=8)
    assert made.log_scale.grad is not None and float(made.log_scale.grad.abs()) > 0
    with torch.no_grad():
        made.log_scale.fill_(9.0)
    assert float(made.scale.detach()) == 100.0
    assert not objective(learn_temperature=False).log_scale.requires_grad


def test_collapse_is_said_in_words() -> None:
    made = objective()
    healthy = {"mean_cosine": 0.02, "uniformity": -3.8, "effective_rank": 20.0}
    assert made.warnings(healthy) == []
    assert "collapsed" in made.warnings({"mean_cosine": 0.99, "uniformity": -0.02, "effective_rank": 1.2})[0]


def test_cut_embeddings_are_trained_beside_the_whole() -> None:
    made, batch = objective(dims=[8]), batch_of("pairs")
    rows = made.encode(batch.ids_BT, batch.lengths)
    plain = objective(dims=[]).loss_of
    expected = (plain(rows, batch) + plain(rows[:, :8], batch)) / 2
    torch.testing.assert_close(made.loss_of(rows, batch), expected)
    assert made.embed(batch, 8).shape == (48, 8)


def test_a_temperature_below_its_bound_finds_back() -> None:
    made = objective()
    with torch.no_grad():
        made.log_scale.fill_(6.0)
    made.scale.backward()
    assert float(made.scale.detach()) == 100 and made.log_scale.grad is not None
    assert made.log_scale.grad.item() == pytest.approx(100)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_probe_leaves_no_hook(depth: int) -> None:
    made, batch = objective(depth=depth), batch_of("pairs")
    for _ in range(3):
        flow = gradient_flow(made, batch)
    assert not any(parameter._backward_hooks for parameter in made.parameters())
    assert depth == 0 or flow["stream"]["gradient"][0] > 0
