"""Parameter groups: every parameter has a role, and its role decides the algorithm, the rate and the decay.

    role        what it is                            by             weight decay
    matrix      a weight inside a block, 2-D          Muon or AdamW  yes
    embedding   one row a token, looked up            AdamW          no
    head        one row a token, multiplied           AdamW          no
    vector      a gain or a bias                      AdamW          no

Weight decay pulls a weight towards zero; a gain has no reason to be small, and a rare token's embedding would
shrink between its occurrences. (SGD replaces both algorithms when asked for.)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from steepest.config import nearest
from steepest.errors import ConfigError
from steepest.optim.config import OptimConfig
from steepest.optim.muon import POLAR_EXPRESS

Role = Literal["embedding", "head", "matrix", "vector"]
Algorithm = Literal["muon", "adamw", "sgd"]


def roles_by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Read each parameter's role off its name and shape.

    A name with the part "embedding" or "head" has that role; otherwise 2-D is a matrix and 1-D a vector.

    >>> import torch
    >>> roles_by_name(torch.nn.ModuleDict({"head": torch.nn.Linear(2, 3, bias=False)}).named_parameters())
    {'head.weight': 'head'}
    """
    roles = {}
    for name, parameter in named_parameters:
        parts = name.split(".")
        if parameter.ndim == 2 and "embedding" in parts:
            roles[name] = "embedding"
        elif parameter.ndim == 2 and "head" in parts:
            roles[name] = "head"
        elif parameter.ndim in (1, 2):
            roles[name] = "matrix" if parameter.ndim == 2 else "vector"
        else:
            raise ConfigError(
                f'parameter "{name}" has shape {tuple(parameter.shape)}; '
                "roles are known for 1-D and 2-D parameters: name its role"
            )
    return roles


def parameter_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    config: OptimConfig,
    roles: Mapping[str, str],
    *,
    lr: float | None = None,
    splits: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Sort parameters into groups for ``torch.optim``; each one that is trained lands in exactly one.

    ``roles`` maps every parameter's name to "embedding", "head", "matrix" or "vector". ``splits`` names the
    matrices that hold several stacked ones, by their row counts (see `Muon`). ``lr`` is the peak rate if the
    config leaves it open. A group carries ``role``, ``algorithm``, ``base_lr`` and ``param_names`` besides
    torch's own keys.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 4)
    >>> groups = parameter_groups(
    ...     layer.named_parameters(), OptimConfig(lr=1e-3), {"weight": "matrix", "bias": "vector"})
    >>> [(group["role"], group["algorithm"], group["weight_decay"]) for group in groups]
    [('matrix', 'muon', 0.1), ('vector', 'adamw', 0.0)]
    """
    peak = config.lr if config.lr is not None else lr
    if peak is None:
        raise ConfigError('"lr" is open: set optim.lr, or pass lr=default_lr(...)')
    splits = splits or {}
    groups: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    seen: dict[int, str] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if id(parameter) in seen:
            raise ConfigError(f'"{name}" and "{seen[id(parameter)]}" are one parameter: name it once')
        seen[id(parameter)] = name
        role = _role_of(name, parameter, roles)
        parts = tuple(splits.get(name, ())) if role == "matrix" else ()
        group = groups.setdefault((role, parts), _new_group(role, parts, config, peak))
        group["params"].append(parameter)
        group["param_names"].append(name)
    if not groups:
        raise ConfigError("no parameter to train: the model has none, or all are frozen")
    unknown = set(splits) - set(seen.values())
    if unknown:
        name = min(unknown)
        raise ConfigError(f'splits name no parameter "{name}"{nearest(name, seen.values())}')
    return list(groups.values())


def _role_of(name: str, parameter: Tensor, roles: Mapping[str, str]) -> str:
    if name not in roles:
        raise ConfigError(f'parameter "{name}" has no role; known roles: {", ".join(get_args(Role))}')
    role = roles[name]
    if role not in get_args(Role):
        raise ConfigError(f'parameter "{name}" has the unknown role "{role}"{nearest(role, get_args(Role))}')
    if role == "matrix" and parameter.ndim != 2:
        raise ConfigError(f'parameter "{name}" has the role "matrix" but shape {tuple(parameter.shape)}')
    return role


def _new_group(role: str, parts: tuple[int, ...], config: OptimConfig, lr: float) -> dict[str, Any]:
    algorithm: Algorithm = config.optimizer
    if algorithm == "muon" and role != "matrix":
        algorithm = "adamw"
    lr *= {"embedding": config.embedding_lr, "head": config.head_lr}.get(role, 1.0)
    group: dict[str, Any] = {
        "params": [],
        "param_names": [],
        "role": role,
        "algorithm": algorithm,
        "lr": lr,
        "base_lr": lr,
        "weight_decay": config.weight_decay if role == "matrix" else 0.0,
    }
    if algorithm == "adamw":
        group |= {"betas": tuple(config.betas), "eps": config.eps}
    else:
        group |= {"momentum": config.momentum, "nesterov": config.nesterov and config.momentum > 0}
    if algorithm == "muon":
        group |= {"splits": parts, "coefficients": tuple(POLAR_EXPRESS[: config.muon_steps])}
    return group
