"""One step and its loop: accumulation equals the whole batch, bad steps change nothing, evaluation adds up."""

import math

import numpy as np
import pytest
import torch

from steepest.data import IGNORE, Batch, TokenStore, evaluation_batches
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken
from steepest.optim import OptimConfig, build_optimizer
from steepest.train import evaluate, train_step
from steepest.train.spikes import SpikeGuard

VOCABULARY = 17
MODEL = TransformerConfig(vocab_size=VOCABULARY, depth=2, width=32, context=12)


def make_objective(dtype: torch.dtype = torch.float64) -> NextToken:
    generator = torch.Generator().manual_seed(0)
    objective = NextToken(Transformer(MODEL, generator), np.arange(VOCABULARY)).to(dtype)
    with torch.no_grad():  # zero projections would hide most of the gradient
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                dtype
            )
    return objective


def make_batch(rows: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (rows, 12), generator=generator)
    targets = torch.randint(0, VOCABULARY, (rows, 12), generator=generator)
    targets[0, 3:] = IGNORE  # rows count unequally: the mean of means would be wrong
    targets[5] = IGNORE
    return Batch(ids, targets, None, int((targets != IGNORE).sum()))


def gradient(objective: NextToken) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 100])
def test_accumulated_gradient_is_that_of_the_mean_over_all_targets(micro_batch: int) -> None:
    batch, objective, plain = make_batch(), make_objective(), make_objective()
    loss = objective.accumulate_gradient(batch, micro_batch=micro_batch)
    logits = plain.head(plain.trunk(batch.ids_BT, plain=True)).flatten(0, 1)
    truth = torch.nn.functional.cross_entropy(logits, batch.targets_BT.flatten(), ignore_index=IGNORE)
    truth.backward()
    torch.testing.assert_close(loss, truth.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(objective), gradient(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(poison: float) -> None:
    objective = make_objective(torch.float32)
    optimizers = build_optimizer(objective.named_parameters(), OptimConfig(lr=1e-2), objective.roles())
    guard = SpikeGuard()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with torch.no_grad():
        objective.trunk.norm.weight[0] = poison
    poisoned = {name: value.clone() for name, value in objective.state_dict().items()}
    result = train_step(objective, make_batch(), optimizers, guard, factor=1.0, clip=1.0, micro_batch=4)
    assert result.verdict == "non-finite"
    for name, value in objective.state_dict().items():
        torch.testing.assert_close(value, poisoned[name], rtol=0, atol=0, equal_nan=True)
    objective.load_state_dict(before)
    result = train_step(objective, make_batch(), optimizers, guard, factor=1.0, clip=1.0, micro_batch=4)
    assert result.verdict == "ok" and math.isfinite(result.loss)
    assert any(not torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_steps_make_the_loss_smaller() -> None:
    objective = make_objective(torch.float32)
    optimizers = build_optimizer(objective.named_parameters(), OptimConfig(lr=1e-2), objective.roles())
    guard, batch = SpikeGuard(), make_batch()
    losses = [
        train_step(objective, batch, optimizers, guard, factor=1.0, clip=1.0, micro_batch=7).loss
        for _ in range(60)
    ]
    assert losses[-1] < 0.2 * losses[0]


def test_evaluation_adds_up_whatever_the_batches() -> None:
    objective = make_objective()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 101)
    store = TokenStore(tokens, np.array([0]), n_bytes=int(tokens.sum()))
    few = evaluate(objective, evaluation_batches(store, context=12, batch=2))
    many = evaluate(objective, evaluation_batches(store, context=12, batch=50))
    assert few.keys() == {"loss", "bits_per_byte", "perplexity", "accuracy"}
    for name, value in few.items():
        assert value == pytest.approx(many[name], rel=1e-12)
    # by hand: every token once, non-overlapping windows of 12
    nats = correct = 0.0
    inputs, targets = np.concatenate([tokens[-1:], tokens[:-1]]), tokens
    with torch.no_grad():
        for start in range(0, 101, 12):
            ids = torch.from_numpy(inputs[start : start + 12])[None]
            wanted = torch.from_numpy(targets[start : start + 12])
            logits = objective.head(objective.trunk(ids, plain=True))[0]
            nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            correct += (logits.argmax(-1) == wanted).sum().item()
    assert few["loss"] == pytest.approx(nats / 101, rel=1e-9)
    assert few["bits_per_byte"] == pytest.approx(nats / math.log(2) / tokens.sum(), rel=1e-9)
    assert few["perplexity"] == pytest.approx(math.exp(nats / 101), rel=1e-9)
    assert few["accuracy"] == pytest.approx(correct / 101, rel=1e-9)


def test_evaluation_leaves_mode_and_gradients_alone() -> None:
    objective = make_objective()
    objective.train()
    tokens = np.arange(50) % VOCABULARY
    store = TokenStore(tokens, np.array([0]), n_bytes=50)
    evaluate(objective, evaluation_batches(store, context=12, batch=2))
    assert objective.training and all(parameter.grad is None for parameter in objective.parameters())
