"""The optimisers against their formulas in float64, and their state: by name, plain, exact."""

import copy
import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.config import build
from steepest.errors import CheckpointError, ConfigError
from steepest.optim import OptimConfig, Optimizers, build_optimizer, default_lr, roles_by_name


def network(seed: int = 0, width: int = 6) -> torch.nn.ModuleDict:
    torch.manual_seed(seed)
    return torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(5, width),
            "up": torch.nn.Linear(width, 2 * width),
            "down": torch.nn.Linear(2 * width, width),
            "head": torch.nn.Linear(width, 5, bias=False),
        }
    )


def loss(net: torch.nn.ModuleDict, step: int) -> Tensor:
    ids = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(step))
    hidden = net["embedding"](ids)
    logits = net["head"](hidden + net["down"](torch.relu(net["up"](hidden))))
    return torch.nn.functional.cross_entropy(logits, (ids + 1) % 5)


def optimizer_for(net: torch.nn.Module, **settings: Any) -> Optimizers:
    named = dict(net.named_parameters())
    config = OptimConfig(**{"lr": 0.05, "embedding_lr": 1.0, "head_lr": 1.0, **settings})
    return build_optimizer(named.items(), config, roles_by_name(named.items()))


def train(net: torch.nn.ModuleDict, optimizer: Optimizers, steps: range) -> None:
    for step in steps:
        optimizer.set_lr(1 / (step + 1))
        loss(net, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_adamw_is_its_formula() -> None:
    net = network().double()
    optimizer = optimizer_for(net, optimizer="adamw", betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    mean = {name: torch.zeros_like(p) for name, p in expected.items()}
    square = copy.deepcopy(mean)
    for step in range(6):
        rate = 0.05 * 0.7**step
        optimizer.set_lr(0.7**step)
        loss(net, step).backward()
        for name, p in net.named_parameters():
            assert p.grad is not None
            mean[name] = 0.8 * mean[name] + 0.2 * p.grad
            square[name] = 0.9 * square[name] + 0.1 * p.grad**2
            unbiased = square[name] / (1 - 0.9 ** (step + 1))
            decay = 0.2 if name in ("up.weight", "down.weight") else 0.0
            expected[name] *= 1 - rate * decay
            expected[name] -= rate * mean[name] / (1 - 0.8 ** (step + 1)) / (unbiased.sqrt() + 1e-6)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.data, expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, True), (0.9, False), (0.9, True)])
def test_sgd_is_its_formula(momentum: float, nesterov: bool) -> None:
    net = network().double()
    optimizer = optimizer_for(net, optimizer="sgd", momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    buffer: dict[str, Tensor] = {}
    for step in range(5):
        loss(net, step).backward()
        for name, p in net.named_parameters():
            assert p.grad is not None
            grad = p.grad + (0.1 if name in ("up.weight", "down.weight") else 0.0) * expected[name]
            buffer[name] = momentum * buffer[name] + grad if step else grad.clone()
            expected[name] -= 0.05 * (grad + momentum * buffer[name] if nesterov else buffer[name])
        optimizer.step()
        optimizer.zero_grad()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.data, expected[name], rtol=1e-10, atol=1e-12)


def test_muon_moves_the_rest_by_adamw() -> None:
    one, other = network(), network()
    both = optimizer_for(one, optimizer="muon", weight_decay=0.0)
    assert [type(part).__name__ for part in both.optimizers] == ["AdamW", "Muon"]
    adamw = optimizer_for(other, optimizer="adamw", weight_decay=0.0)
    for net, optimizer in ((one, both), (other, adamw)):
        loss(net, 0).backward()
        optimizer.step()
    for (name, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(p, q) == (name not in ("up.weight", "down.weight")), name


@pytest.mark.parametrize("kind", ["muon", "adamw", "sgd"])
def test_training_lowers_the_loss(kind: str) -> None:
    net = network()
    optimizer = optimizer_for(net, optimizer=kind)
    before = loss(net, 0).item()
    for step in range(1, 30):
        loss(net, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss(net, 0).item() < 0.3 * before


def test_kernels_are_fused_on_the_cpu() -> None:
    for kind in ("adamw", "sgd"):
        assert all(group["fused"] for group in optimizer_for(network(), optimizer=kind).param_groups)


def test_factor_scales_every_group_from_its_peak() -> None:
    optimizer = optimizer_for(network(), embedding_lr=3.0)
    for factor in (0.5, 0.1, 1.0):
        optimizer.set_lr(factor)
        assert [g["lr"] for g in optimizer.param_groups] == [
            g["base_lr"] * factor for g in optimizer.param_groups
        ]
        assert optimizer.lr == pytest.approx(0.05 * factor)  # of the matrices, not of the embedding


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


@pytest.mark.parametrize("kind", ["muon", "adamw", "sgd"])
def test_state_goes_on_bit_for_bit(kind: str) -> None:
    net = network()
    optimizer = optimizer_for(net, optimizer=kind)
    train(net, optimizer, range(7))
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    train(net, optimizer, range(7, 14))

    again = network(seed=1)
    again.load_state_dict(weights)
    resumed = optimizer_for(again, optimizer=kind)
    resumed.load_state_dict(state)
    assert_same(resumed.state_dict(), state)
    train(again, resumed, range(7, 14))
    assert_same(again.state_dict(), net.state_dict())
    assert_same(resumed.state_dict(), optimizer.state_dict())
    assert state["factor"] == 1 / 7  # the resumed one owns copies


def test_state_is_tensors_and_json_keyed_by_name() -> None:
    net = network()
    optimizer = optimizer_for(net)
    train(net, optimizer, range(2))
    state = optimizer.state_dict()
    assert set(state["state"]) == {name for name, _ in net.named_parameters()}
    assert set(state["state"]["up.weight"]) == {"momentum_buffer"}
    assert set(state["state"]["head.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert all(isinstance(v, Tensor) for values in state["state"].values() for v in values.values())
    rest = {key: value for key, value in state.items() if key != "state"}
    assert json.loads(json.dumps(rest)) == rest


def test_fresh_state_is_empty_and_loading_it_forgets() -> None:
    net = network()
    optimizer = optimizer_for(net)
    fresh = copy.deepcopy(optimizer.state_dict())
    assert fresh["state"] == {}
    train(net, optimizer, range(2))
    optimizer.load_state_dict(fresh)
    assert optimizer.state_dict()["state"] == {}


def test_going_back_may_change_rates_and_decay() -> None:
    net = network()
    optimizer = optimizer_for(net)
    train(net, optimizer, range(3))
    changed = optimizer_for(net, lr=0.001, weight_decay=0.7, muon_steps=3)
    changed.load_state_dict(optimizer.state_dict())
    matrix = next(group for group in changed.param_groups if group["role"] == "matrix")
    assert matrix["base_lr"] == 0.001 and matrix["weight_decay"] == 0.7
    assert matrix["lr"] == pytest.approx(0.001 / 3)
    assert len(matrix["coefficients"]) == 3


def test_state_of_another_run_is_refused() -> None:
    net = network()
    optimizer = optimizer_for(net)
    train(net, optimizer, range(1))
    state = optimizer.state_dict()
    with pytest.raises(CheckpointError, match=r'holds muon state for "down.weight".* adamw'):
        optimizer_for(network(), optimizer="adamw").load_state_dict(state)
    with pytest.raises(CheckpointError, match=r'of "embedding.weight" has shape \(5, 6\)'):
        optimizer_for(network(width=4)).load_state_dict(state)
    smaller = network()
    del smaller["down"]
    with pytest.raises(CheckpointError, match=r'for "down.bias", which this model lacks'):
        optimizer_for(smaller).load_state_dict(state)
    larger = network()
    larger["more"] = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(CheckpointError, match=r'no optimiser state for "more.weight"'):
        optimizer_for(larger).load_state_dict(state)


def test_default_rate_scales_with_width_and_batch() -> None:
    for kind in ("muon", "adamw", "sgd"):
        base = default_lr(kind, width=128, batch_tokens=4096)
        assert 1e-4 < base < 1
        assert default_lr(kind, width=512, batch_tokens=4096) < base
        rates = [default_lr(kind, width=128, batch_tokens=2**k) for k in range(4, 30)]
        assert rates == sorted(rates) and math.isfinite(rates[-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, '"lr": input should be greater than 0; got 0'),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\)"),
        ({"warmup": 0.6, "cooldown": 0.5}, "may add up to 1 at most; got 0.6 [+] 0.5"),
        ({"optimizer": "adam"}, '"optimizer"'),
        ({"wieght_decay": 0.1}, 'did you mean "weight_decay"'),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(OptimConfig, settings)


def test_every_setting_is_described() -> None:
    for name, field in OptimConfig.model_fields.items():
        assert field.description, name


def test_a_step_does_not_import_the_compiler() -> None:
    """torch.optim's own methods would: a second of every run."""
    program = """
import sys, torch
from steepest.optim import OptimConfig, build_optimizer
layer = torch.nn.Linear(4, 4)
for name in ("muon", "adamw", "sgd"):
    optimizer = build_optimizer(
        layer.named_parameters(), OptimConfig(optimizer=name, lr=0.1), {"weight": "matrix", "bias": "vector"}
    )
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert layer.weight.grad is None
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
