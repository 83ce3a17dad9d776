"""torch's optimisers without the decorators that import its compiler.

``torch.optim`` marks its methods as not to be compiled, and the marker imports ``torch._dynamo`` at the first call:
1.2 seconds of a run's time for something that a run without a compiled optimiser never uses. `QuickStart` calls the
functions beneath the markers. Arithmetic and state are torch's own.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch


class QuickStart(torch.optim.Optimizer):
    """Mix-in, named before the optimiser whose update it calls.

    >>> class SGD(QuickStart, torch.optim.SGD): ...
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = SGD([weight], lr=0.5)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> weight.data
    tensor([0.5000, 0.5000])
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        beneath = inspect.unwrap(super().step)
        return beneath(self, closure)  # type: ignore[no-any-return]
