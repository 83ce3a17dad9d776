"""Optimisers: SGD, AdamW, and Muon with AdamW, behind one object.

    sgd     w <- w - lr * m,              m <- momentum * m + g           torch.optim.SGD
    adamw   w <- (1 - lr * decay) * w - lr * mean / (sqrt(square) + eps)  torch.optim.AdamW, fused
    muon    w <- (1 - lr * decay) * w - lr * scale * orthogonal(m)        steepest.optim.muon

SGD's weight decay is added to the gradient; the other two shrink the weight itself (decoupled decay).
Sources: Kingma and Ba, https://arxiv.org/abs/1412.6980; Loshchilov and Hutter, https://arxiv.org/abs/1711.05101.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.errors import CheckpointError
from steepest.optim.config import OptimConfig
from steepest.optim.groups import parameter_groups
from steepest.optim.muon import Muon
from steepest.optim.quick_start import QuickStart

_GROUP_KEYS = ("role", "algorithm", "base_lr", "lr", "weight_decay", "param_names")
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_optimizer(
    named_parameters: Iterable[tuple[str, Tensor]],
    config: OptimConfig,
    roles: Mapping[str, str],
    *,
    lr: float | None = None,
    splits: Mapping[str, Sequence[int]] | None = None,
) -> "Optimizers":
    """Make the optimiser that a configuration names; arguments as in `parameter_groups`.

    >>> layer = torch.nn.Linear(4, 4, bias=False)
    >>> optimizer = build_optimizer(layer.named_parameters(), OptimConfig(lr=0.1), {"weight": "matrix"})
    >>> layer(torch.ones(1, 4)).sum().backward()
    >>> optimizer.set_lr(0.5)
    >>> optimizer.step()
    >>> optimizer.lr
    0.05
    """
    return Optimizers(parameter_groups(named_parameters, config, roles, lr=lr, splits=splits))


class SGD(QuickStart, torch.optim.SGD):
    """torch's SGD."""


class AdamW(QuickStart, torch.optim.AdamW):
    """torch's AdamW."""


class Optimizers:
    """One or two ``torch.optim`` optimisers that step together, with one state keyed by parameter name.

    ``groups`` come from `parameter_groups`. Hyperparameters always come from the groups given here;
    `load_state_dict` restores what was learnt (momenta, mean squares, step counts) and the current factor, so a
    run can go back to a checkpoint with another learning rate.

    ``in_backward``: whether a training step updates every parameter inside its backward pass (`in_backward.py`).
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        by_algorithm: dict[str, list[dict[str, Any]]] = {}
        for group in groups:
            by_algorithm.setdefault(group["algorithm"], []).append(group)
        self.optimizers = [_make(name, members) for name, members in by_algorithm.items()]
        self.factor = 1.0
        self.in_backward = False

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all optimisers, live."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def lr(self) -> float:
        """The current learning rate, peak times factor, of the matrices (of the first group without any)."""
        groups = self.param_groups
        return float(next((group for group in groups if group["role"] == "matrix"), groups[0])["lr"])

    def step(self) -> None:
        """Update every parameter from its gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def set_lr(self, factor: float) -> None:
        """Set every group's rate to ``factor`` times its peak."""
        self.factor = factor
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * factor

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name, and the groups for the reader: tensors, numbers, strings, lists.

        ``{"factor": .., "state": {"blocks.0.up.weight": {"momentum_buffer": ..}}, "param_groups": [..]}``.
        The tensors are the live ones; copy them before the next step if they must not change.
        """
        state = {
            name: dict(optimizer.state[parameter])
            for optimizer, name, parameter in self._named()
            if parameter in optimizer.state
        }
        groups = [{key: group[key] for key in _GROUP_KEYS} for group in self.param_groups]
        return {"factor": self.factor, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, exactly; another algorithm or model is a `CheckpointError`."""
        saved = {
            name: group["algorithm"] for group in state_dict["param_groups"] for name in group["param_names"]
        }
        ours = {name: group["algorithm"] for group in self.param_groups for name in group["param_names"]}
        if saved != ours:
            raise CheckpointError(_difference(saved, ours))
        state = state_dict["state"]
        for optimizer, name, parameter in self._named():
            if name not in state:
                optimizer.state.pop(parameter, None)
                continue
            for key, value in state[name].items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise CheckpointError(
                        f'the optimiser state "{key}" of "{name}" has shape {tuple(value.shape)}; '
                        f"the parameter has {tuple(parameter.shape)}: the checkpoint is of another model"
                    )
            optimizer.state[parameter] = {
                key: _restored(value, parameter) for key, value in state[name].items()
            }
        self.set_lr(float(state_dict["factor"]))

    def _named(self) -> Iterable[tuple[torch.optim.Optimizer, str, Tensor]]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for name, parameter in zip(group["param_names"], group["params"], strict=True):
                    yield optimizer, name, parameter


def _make(algorithm: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if algorithm == "muon":
        return Muon(groups)
    # The fused kernels pass over memory once; torch picks them by default nowhere.
    fused = all(
        parameter.device.type in _FUSED_DEVICES and parameter.is_floating_point()
        for group in groups
        for parameter in group["params"]
    )
    kind = AdamW if algorithm == "adamw" else SGD
    return kind(groups, fused=fused or None)


def _restored(value: Any, parameter: Tensor) -> Any:
    """A copy of a saved value where the optimiser needs it."""
    return value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value


def _difference(saved: Mapping[str, str], ours: Mapping[str, str]) -> str:
    for name in sorted(saved.keys() | ours.keys()):
        if name not in saved:
            return f'the checkpoint has no optimiser state for "{name}": it is of another model'
        if name not in ours:
            return f'the checkpoint has optimiser state for "{name}", which this model lacks: it is of another model'
        if saved[name] != ours[name]:
            return (
                f'the checkpoint holds {saved[name]} state for "{name}", the configuration asks for {ours[name]}: '
                "keep the optimiser, or start a new run"
            )
    raise AssertionError("the two are equal")
