"""A probe: root mean squares of activations and of their gradients at named modules, the model unchanged.

    a = rms(x),      g = rms(dL/dx)      x the input or the output of a module, dL/dx what backpropagation finds

Hooks stand while the ``with`` block runs. They read detached values and return nothing, so that outputs, gradients
and random numbers are those of the bare model, bit for bit. Sums are kept on the device until ``read``: nothing
waits for a GPU in between. Forward passes that belong to the backward pass (recomputed blocks) are not counted
again; several passes, such as micro-batches, are counted together.

The idea of attaching by name, "without changing anything", is that of the probe in facebookresearch/lingua.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steepest.config import nearest
from steepest.errors import ConfigError


@dataclass(frozen=True)
class Reading:
    """What was seen at one place: root mean squares, ``None`` where nothing passed."""

    activation: float | None
    gradient: float | None


class Probe:
    """Reads at the inputs and outputs of named modules while it is entered.

    Args:
        model: whose ``named_modules`` the names are.
        inputs: modules whose first input is read.
        outputs: modules whose (first) output is read.

    Raises:
        ConfigError: for a name the model has not, with the nearest one it has.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> with Probe(nn.Sequential(layer), inputs=["0"], outputs=["0"]) as probe:
    ...     layer(x).sum().backward()
    >>> print(probe.read()["0 in"])
    Reading(activation=0.7071..., gradient=3.5355...)
    """

    def __init__(self, model: nn.Module, inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> None:
        modules = dict(model.named_modules())
        self._inputs = {name: _find(modules, name) for name in inputs}
        self._outputs = {name: _find(modules, name) for name in outputs}
        places = [f"{name} in" for name in self._inputs] + [f"{name} out" for name in self._outputs]
        self._activations = {place: _Mean() for place in places}
        self._gradients = {place: _Mean() for place in places}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._inputs.items():
            self._handles.append(
                module.register_forward_pre_hook(self._at_input(f"{name} in"), with_kwargs=True)
            )
        for name, module in self._outputs.items():
            self._handles.append(module.register_forward_hook(self._at_output(f"{name} out")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def read(self) -> dict[str, Reading]:
        """What was seen, by place: "NAME in" and "NAME out"."""
        return {
            place: Reading(self._activations[place].root(), self._gradients[place].root())
            for place in self._activations
        }

    def _at_input(self, place: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._see(place, (*args, *kwargs.values()))

        return hook

    def _at_output(self, place: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._see(place, output if isinstance(output, tuple | list) else (output,))

        return hook

    def _see(self, place: str, values: Iterable[Any]) -> None:
        if in_backward_pass():
            return
        x = next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)
        if x is None:
            return
        self._activations[place].add(x.detach())
        if x.requires_grad:
            # Mostly the hook dies with the graph it belongs to, but a parameter may be looked at too.
            self._handles.append(
                x.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: self._gradients[place].add(gradient.detach())
                )
            )


class _Mean:
    """A running mean of squares."""

    def __init__(self) -> None:
        self.squares: Tensor | None = None
        self.count = 0

    def add(self, x: Tensor) -> None:
        dtype = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dtype=dtype).double().square()
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += x.numel()

    def root(self) -> float | None:
        return None if self.squares is None else (self.squares.item() / max(self.count, 1)) ** 0.5


def in_backward_pass() -> bool:
    """Whether autograd is at work: a module that runs now is being recomputed.

    >>> in_backward_pass()
    False
    """
    # As torch.utils.checkpoint itself asks; there is no public name for it.
    return bool(torch._C._current_graph_task_id() != -1)


def _find(modules: dict[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise ConfigError(f'a probe found no module "{name}"{nearest(name, modules)}')
    return modules[name]
