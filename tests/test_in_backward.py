"""The optimiser's step inside the backward pass: the same weights, one gradient held, refused where it cannot be."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steepest.api import resume, train
from steepest.config import build
from steepest.data import Batch
from steepest.errors import ConfigError, TrainingError
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken
from steepest.optim import OptimConfig, build_optimizer
from steepest.optim.in_backward import updates_in_backward
from steepest.train.footprint import measure_training, predict_training
from steepest.train.run import RunConfig
from steepest.train.spikes import SpikeGuard
from steepest.train.step import StepResult, train_step

VOCABULARY, CONTEXT = 23, 12


def batch(rows: int = 4) -> Batch:
    ids = torch.randint(0, VOCABULARY, (rows, CONTEXT), generator=torch.Generator().manual_seed(1))
    return Batch(ids, ids.roll(-1, 1), None, ids.numel())


def trained(
    in_backward: bool, steps: int = 3, optimizer: str = "adamw", backward: Any = None, **model: Any
) -> tuple[NextToken, list[StepResult]]:
    config = TransformerConfig(vocab_size=VOCABULARY, context=CONTEXT, depth=2, width=32, **model)
    trunk = Transformer(config, torch.Generator().manual_seed(0), backward=backward)
    objective = NextToken(trunk, np.ones(VOCABULARY, np.int64))
    optim = OptimConfig(optimizer=optimizer, lr=1e-2, clip=0.0)  # type: ignore[arg-type]
    optimizers = build_optimizer(
        objective.named_parameters(), optim, objective.roles(), splits=objective.splits()
    )
    optimizers.in_backward = in_backward
    torch.manual_seed(0)
    guard = SpikeGuard()
    results = [
        train_step(objective, batch(), optimizers, guard, factor=0.5, clip=0.0, micro_batch=4)
        for _ in range(steps)
    ]
    assert all(parameter.grad is None for parameter in objective.parameters())
    return objective, results


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize(
    "model",
    [{}, {"tie_embeddings": True, "dropout": 0.1}, {"coupling": "reversible"}, {"backward": "recompute"}],
    ids=["residual", "tied, dropout", "reversible", "recomputed"],
)
def test_the_weights_are_those_of_the_usual_step(optimizer: str, model: dict[str, Any]) -> None:
    usual, within = trained(False, optimizer=optimizer, **model), trained(True, optimizer=optimizer, **model)
    # Muon multiplies matrices of one shape as a stack, or one by one: another order of summation.
    tolerance = {"rtol": 0, "atol": 0} if optimizer != "muon" else {"rtol": 1e-2, "atol": 2e-3}
    for name, value in usual[0].state_dict().items():
        torch.testing.assert_close(within[0].state_dict()[name], value, **tolerance)
    if optimizer != "muon":
        assert [result.loss for result in within[1]] == [result.loss for result in usual[1]]
    assert [r.grad_norm for r in within[1]] == pytest.approx([r.grad_norm for r in usual[1]], rel=1e-2)


def config(depth: int = 10, *, in_backward: bool | None, clip: float = 0.0, **model: Any) -> RunConfig:
    return build(RunConfig, {
        "model": {"vocab_size": 300, "depth": depth, "width": 64, "context": 64, **model},
        "optim": {"optimizer": "adamw", "clip": clip},
        "batches": {"batch_tokens": 64},
        "train": {"steps": 1, "device": "cpu", "dtype": "float32", "step_in_backward": in_backward},
    })  # fmt: skip


@pytest.mark.parametrize("coupling", ["residual", "reversible"])
def test_predicted_to_the_byte_in_depth_and_to_the_allocators_count(coupling: str) -> None:
    asked = config(in_backward=True, coupling=coupling)
    predicted = predict_training(asked)
    exact = predict_training(asked, whole=True)
    assert (predicted.peak, predicted.phases) == (exact.peak, exact.phases)
    assert predicted.peak == pytest.approx(max(measure_training(asked)), rel=2e-3)


def test_a_reversible_step_takes_the_same_over_its_state_at_any_depth() -> None:
    def over_state(depth: int) -> int:
        found = predict_training(config(depth, in_backward=True, coupling="reversible"))
        return found.peak - found.worst.weights - found.worst.optimiser

    assert over_state(6) == over_state(48)
    usual = predict_training(config(48, in_backward=None, coupling="reversible"))
    assert over_state(48) < (usual.peak - usual.worst.weights - usual.worst.optimiser) / 5


def test_a_gradient_that_is_not_finite_is_not_applied() -> None:
    objective, _ = trained(True, steps=1)
    with torch.no_grad():
        objective.head.matrix[0, 0] = torch.nan
    before = {name: value.clone() for name, value in objective.trunk.state_dict().items()}
    optimizers = build_optimizer(
        objective.named_parameters(), OptimConfig(optimizer="adamw", lr=1e-2, clip=0), objective.roles()
    )
    optimizers.in_backward = True
    result = train_step(objective, batch(), optimizers, SpikeGuard(), factor=1.0, clip=0.0, micro_batch=4)
    assert result.verdict == "non-finite"
    assert all(torch.equal(before[name], value) for name, value in objective.trunk.state_dict().items())


def test_an_outlier_is_told_though_it_cannot_be_taken_back() -> None:
    objective, _ = trained(True, steps=1)
    optimizers = build_optimizer(
        objective.named_parameters(), OptimConfig(optimizer="adamw", lr=1e-4, clip=0), objective.roles()
    )
    optimizers.in_backward = True
    guard = SpikeGuard(minimum=3)
    for _ in range(4):
        train_step(objective, batch(), optimizers, guard, factor=1.0, clip=0.0, micro_batch=4)
    with torch.no_grad():
        objective.head.matrix.copy_(
            10 * torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0))
        )
    result = train_step(objective, batch(), optimizers, guard, factor=1.0, clip=0.0, micro_batch=4)
    assert result.verdict == "outlier applied"


def test_streams_that_outgrow_the_grid_are_noticed_before_any_weight_moves() -> None:
    states = []
    for range_bits in (8, 12):
        config = TransformerConfig(
            vocab_size=VOCABULARY, context=CONTEXT, depth=2, width=32, dropout=0.1, coupling="reversible"
        )
        objective = NextToken(
            Transformer(config, torch.Generator().manual_seed(0)), np.ones(VOCABULARY, np.int64)
        )
        grid = objective.trunk.grid
        assert grid is not None
        grid.range_bits = range_bits
        with torch.no_grad():
            objective.trunk.embedding.weight.mul_(400)
        optimizers = build_optimizer(
            objective.named_parameters(), OptimConfig(optimizer="adamw", lr=1e-2, clip=0), objective.roles()
        )
        optimizers.in_backward = True
        torch.manual_seed(0)
        train_step(objective, batch(), optimizers, SpikeGuard(), factor=1.0, clip=0.0, micro_batch=4)
        assert grid.range_bits == 12
        states.append(objective.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_layer_that_changes_its_mind_cannot_be_repeated() -> None:
    objective, _ = trained(True, steps=1, coupling="reversible")
    calls = iter(range(100))
    half = objective.trunk.blocks[0].attend
    objective.trunk.blocks[0].attend = lambda *a, **b: half(*a, **b) + 1e-3 * next(calls)  # type: ignore[assignment]
    optimizers = build_optimizer(
        objective.named_parameters(), OptimConfig(optimizer="adamw", lr=1e-2, clip=0), objective.roles()
    )
    optimizers.in_backward = True
    with pytest.raises(TrainingError, match=r"resume the run .* train\.step_in_backward = false"):
        train_step(objective, batch(), optimizers, SpikeGuard(), factor=1.0, clip=0.0, micro_batch=4)


@pytest.mark.parametrize(("clip", "micro_batch"), [(1.0, 4), (0.0, 2)])
def test_clipping_and_accumulation_are_refused(clip: float, micro_batch: int) -> None:
    objective, _ = trained(True, steps=1)
    optimizers = build_optimizer(objective.named_parameters(), OptimConfig(lr=1e-2), objective.roles())
    optimizers.in_backward = True
    with pytest.raises(ConfigError, match=rf"all 4 sequences at once, got {clip:g} and {micro_batch}"):
        train_step(
            objective, batch(), optimizers, SpikeGuard(), factor=1.0, clip=clip, micro_batch=micro_batch
        )


def test_a_config_that_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("set optim.clip = 0 (it is 1)")):
        config(in_backward=True, clip=1.0)


def test_hooks_are_gone_after_an_error() -> None:
    layer = torch.nn.Linear(2, 2)
    optimizers = build_optimizer(
        layer.named_parameters(), OptimConfig(optimizer="sgd", lr=1.0), {"weight": "matrix", "bias": "vector"}
    )
    with pytest.raises(ZeroDivisionError), updates_in_backward(optimizers):
        raise ZeroDivisionError
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None


def test_a_run_trains_and_resumes(text_file: Path, tmp_path: Path) -> None:
    settings = {
        "tokenizer": {"kind": "bytes"},
        "model": {"depth": 2, "width": 32, "context": 32},
        "batches": {"batch_tokens": 128},
        "optim": {"optimizer": "adamw", "lr": 1e-2, "clip": 0.0},
        "train": {"threads": 1, "sample_tokens": 0, "evaluations": 0, "step_in_backward": True},
    }
    run = train(text_file, steps=3, name="a", config=settings, runs=tmp_path)
    assert run.config.train.step_in_backward and run.config.train.micro_batch == 4
    losses = [record["loss"] for record in run.folder.read_metrics() if "loss" in record]
    usual = settings | {"train": {**settings["train"], "step_in_backward": None}}  # type: ignore[dict-item]
    plain = train(text_file, steps=3, name="b", config=usual, runs=tmp_path)
    assert losses == [record["loss"] for record in plain.folder.read_metrics() if "loss" in record]
    run.folder.result.unlink()  # as if killed before it was written
    assert resume("a", runs=tmp_path).config.train.step_in_backward
