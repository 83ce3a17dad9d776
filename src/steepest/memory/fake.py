"""Objects that hold tensors: every tensor found by its kind, and copies in which every tensor is fake.

A fake tensor has shape, dtype and device but no data (``torch._subclasses.FakeTensorMode``), so a step on such
copies takes no memory and little time.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from steepest.memory.tracker import Kind


def tensors_of(thing: Any, seen: set[int], modules: list[nn.Module]) -> Iterator[tuple[Kind, Tensor]]:
    """Every tensor an object holds, by kind; the modules found are added to ``modules``."""
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | None):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield "batch", thing
    elif isinstance(thing, nn.Module):
        modules.append(thing)
        for tensor in (*thing.parameters(), *thing.buffers()):
            seen.add(id(tensor))
            yield "weights", tensor
            if tensor.is_leaf and tensor.grad is not None:
                yield "gradients", tensor.grad
    elif isinstance(thing, torch.optim.Optimizer):
        for state in thing.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    seen.add(id(value))
                    yield "optimiser", value
        for group in thing.param_groups:
            yield from tensors_of(group["params"], seen, modules)
    else:
        for part in _parts(thing):
            yield from tensors_of(part, seen, modules)


def _parts(thing: Any) -> Sequence[Any]:
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple | set):
        return list(thing)
    if is_dataclass(thing):
        return [getattr(thing, one.name) for one in fields(thing)]
    return list(vars(thing).values()) if hasattr(thing, "__dict__") and not callable(thing) else []


def faked(
    mode: FakeTensorMode, arguments: tuple[Any, ...], device: torch.device | None = None
) -> tuple[Any, ...]:
    """Copies of the arguments in which every tensor is fake, shared ones still shared.

    Args:
        device: where they seem to be; where they are if ``None``.
    """
    memo: dict[int, Any] = {}
    storages: dict[tuple[int, torch.dtype], Tensor] = {}
    for _, tensor in tensors_of(arguments, set(), []):
        key = tensor.untyped_storage()._cdata, tensor.dtype
        if key not in storages:  # all of it, of which this may be a part
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            flat = mode.from_tensor(tensor.detach().as_strided((count,), (1,), 0))
            storages[key] = flat.to(device or tensor.device)
        fake = storages[key].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        if isinstance(tensor, nn.Parameter):
            fake = nn.Parameter(fake, tensor.requires_grad)
        memo[id(tensor)] = fake.requires_grad_(tensor.requires_grad)
    for _, tensor in tensors_of(arguments, set(), []):
        if tensor.is_leaf and tensor.grad is not None:
            memo[id(tensor)].grad = memo[id(tensor.grad)]
    copied: tuple[Any, ...] = copy.deepcopy(arguments, memo)
    return copied
