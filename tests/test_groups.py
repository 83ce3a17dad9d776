"""Every parameter in exactly one group, by its role; decay on matrices only; whatever is unclear is refused."""

import pytest
import torch

from steepest.errors import ConfigError
from steepest.optim import OptimConfig, parameter_groups, roles_by_name


def model() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(7, 4),
            "block": torch.nn.ModuleDict({"qkv": torch.nn.Linear(4, 12), "out": torch.nn.Linear(4, 4)}),
            "norm": torch.nn.LayerNorm(4),
            "head": torch.nn.Linear(4, 7, bias=False),
        }
    )


ROLES = {
    "embedding.weight": "embedding",
    "block.qkv.weight": "matrix",
    "block.qkv.bias": "vector",
    "block.out.weight": "matrix",
    "block.out.bias": "vector",
    "norm.weight": "vector",
    "norm.bias": "vector",
    "head.weight": "head",
}


def test_roles_are_read_off_names_and_shapes() -> None:
    assert roles_by_name(model().named_parameters()) == ROLES
    with pytest.raises(ConfigError, match=r'"kernel" has shape \(2, 3, 4\)'):
        roles_by_name([("kernel", torch.nn.Parameter(torch.zeros(2, 3, 4)))])


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(optimizer: str) -> None:
    net = model()
    config = OptimConfig(optimizer=optimizer, lr=0.01, weight_decay=0.3, embedding_lr=1, head_lr=1)
    groups = parameter_groups(net.named_parameters(), config, ROLES, splits={"block.qkv.weight": (4, 4, 4)})
    named = [pair for g in groups for pair in zip(g["param_names"], map(id, g["params"]), strict=True)]
    assert sorted(named) == sorted((name, id(p)) for name, p in net.named_parameters())
    for group in groups:
        assert {ROLES[name] for name in group["param_names"]} == {group["role"]}
        assert group["weight_decay"] == (0.3 if group["role"] == "matrix" else 0.0)
        assert group["lr"] == group["base_lr"] == 0.01
        muon = optimizer == "muon" and group["role"] == "matrix"
        assert group["algorithm"] == ("muon" if muon else "sgd" if optimizer == "sgd" else "adamw")
        if muon:
            assert group["splits"] == ((4, 4, 4) if group["param_names"] == ["block.qkv.weight"] else ())


def test_rates_of_embedding_and_head_are_multiples() -> None:
    config = OptimConfig(lr=0.01, embedding_lr=2.0, head_lr=0.5)
    rates = {g["role"]: g["lr"] for g in parameter_groups(model().named_parameters(), config, ROLES)}
    assert rates == {"embedding": 0.02, "head": 0.005, "matrix": 0.01, "vector": 0.01}


def test_open_rate_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"set optim\.lr"):
        parameter_groups(model().named_parameters(), OptimConfig(), ROLES)
    groups = parameter_groups(model().named_parameters(), OptimConfig(embedding_lr=3), ROLES, lr=0.5)
    assert {group["lr"] for group in groups} == {0.5, 1.5, 0.25}


def test_frozen_parameters_are_left_out() -> None:
    net = model()
    net["embedding"].requires_grad_(False)
    groups = parameter_groups(net.named_parameters(), OptimConfig(lr=1), ROLES)
    assert "embedding" not in {group["role"] for group in groups}
    net.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        parameter_groups(net.named_parameters(), OptimConfig(lr=1), ROLES)


def test_what_is_unclear_is_refused() -> None:
    config = OptimConfig(lr=1)
    weight, bias = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    for named, roles, message in [
        ([("a", weight)], {}, '"a" has no role'),
        ([("a", weight)], {"a": "matrx"}, 'unknown role "matrx"; did you mean "matrix"'),
        ([("a", bias)], {"a": "matrix"}, r'role "matrix" but shape \(2,\)'),
        ([("a", weight), ("b", weight)], {"a": "matrix", "b": "matrix"}, '"b" and "a" are one parameter'),
    ]:
        with pytest.raises(ConfigError, match=message):
            parameter_groups(named, config, roles)
    with pytest.raises(ConfigError, match='splits name no parameter "qvk"; did you mean "qkv"'):
        parameter_groups([("qkv", weight)], config, {"qkv": "matrix"}, splits={"qvk": (1, 1)})
