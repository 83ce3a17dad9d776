"""State dicts as bytes and JSON, exactly: what comes back equals what went in, bit for bit.

Tensors become one safetensors file: eight bytes with the length of a JSON header, the header, the data.

    N (little-endian)  {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}  data

The layout is written here rather than by the library for one reason: the copy that shields the tensors
from the next training step is then already the file, so it can be hashed and written as it is. Any
safetensors reader opens the result. Three things that the format cannot say are kept in its metadata:
tensors that share memory (tied weights are stored once and come back tied), dense strides other than the
contiguous ones, and dtypes it does not know (stored as bytes).

Everything else becomes plain JSON: floats as their shortest exact decimal form, and what JSON lacks as an
object with a single key: ``{"$tuple": [...]}``, ``{"$dict": [[key, value], ...]}`` for keys that are not
strings, ``{"$float": "inf"}``, ``{"$tensor": name}``. Nothing here can run code on load.

Source: the safetensors format, https://github.com/huggingface/safetensors.
"""

import json
import math
import numbers
import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.errors import CheckpointError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_METADATA = "__metadata__"  # the format's own entry: no tensor can have this name
_ALIGN = 64  # the data begins on a cache line, every tensor on a multiple of its element size

assert sys.byteorder == "little", "safetensors files are little-endian"


def tensors_to_bytes(tensors: Mapping[str, Tensor], buffer: Tensor | None = None) -> Tensor:
    """Copy tensors into one ``uint8`` tensor that is a whole safetensors file.

    ``buffer`` (``uint8``, on the CPU) is used when it is large enough: writing into memory that has been
    touched before is several times faster than into fresh pages.

    >>> from safetensors.torch import load
    >>> file = tensors_to_bytes({"weight": torch.arange(3.0)})
    >>> load(file.numpy().tobytes())["weight"]
    tensor([0., 1., 2.])
    """
    header, starts, size = _layout(tensors)
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(size, dtype=torch.uint8)
    file = buffer[:size]
    file[: len(header)].copy_(torch.frombuffer(bytearray(header), dtype=torch.uint8))
    with torch.no_grad():
        for name, start in starts.items():
            tensor = tensors[name]
            place = file[start : start + tensor.nbytes].view(tensor.dtype)
            place.view(tensor.shape).copy_(tensor)
    return file


def bytes_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file that ``tensors_to_bytes`` makes of these tensors; copies nothing.

    >>> bytes_size({"weight": torch.zeros(16)})
    192
    """
    return _layout(tensors)[2]


def tensors_from_bytes(file: Tensor) -> dict[str, Tensor]:
    """Read a safetensors file held in a ``uint8`` tensor; what comes back owns its memory.

    >>> tied = torch.ones(2, 2)
    >>> back = tensors_from_bytes(tensors_to_bytes({"a": tied, "b": tied, "c": tied.bool()}))
    >>> back["a"] is back["b"], back["c"].dtype
    (True, torch.bool)
    """
    try:
        return _read(file)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"not a readable safetensors file: {' '.join(str(error).split())}") from None


def to_json(value: Any, where: str = "state", tensors: dict[str, Tensor] | None = None) -> Any:
    """Turn nested dicts, lists, tuples and scalars into plain JSON that ``from_json`` turns back exactly.

    Tensors are moved into ``tensors`` under their path; without it they are refused. ``where`` names the
    value in errors. Subclasses (named tuples, ordered dicts, numpy scalars) come back as their plain kind.

    >>> to_json({"betas": (0.9, 0.95), "best": float("inf"), "state": {0: None}})
    {'betas': {'$tuple': [0.9, 0.95]}, 'best': {'$float': 'inf'}, 'state': {'$dict': [[0, None]]}}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor) and tensors is not None:
        name = where.partition(".")[2] or where
        while name in tensors or name == _METADATA:  # {"a.b": ...} beside {"a": {"b": ...}}
            name += "_"
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, (list, tuple)):
        items = [to_json(item, f"{where}.{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [
            [to_json(key, f"{where} (key)"), to_json(item, f"{where}.{key}", tensors)]
            for key, item in value.items()
        ]
        plain = all(isinstance(key, str) for key in value)
        if plain and not (len(pairs) == 1 and pairs[0][0].startswith("$")):
            return dict(pairs)
        return {"$dict": pairs}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CheckpointError(
        f"{where} is a {kind}; a checkpoint state holds dicts, lists, tuples, numbers, strings, bools and "
        f"None: convert it, or pass it among the tensors"
    )


def from_json(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """Undo ``to_json``.

    >>> from_json(to_json({"betas": (0.9, 0.95), 3: [float("-inf")]}))
    {'betas': (0.9, 0.95), 3: [-inf]}
    """
    if isinstance(value, list):
        return [from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inside),) = value.items()
        if tag == "$tuple":
            return tuple(from_json(item, tensors) for item in inside)
        if tag == "$dict":
            return {from_json(key): from_json(item, tensors) for key, item in inside}
        if tag == "$float":
            return float(inside)
        if tag == "$tensor":
            if tensors is None or inside not in tensors:
                raise CheckpointError(f'the state refers to the tensor "{inside}", which is not there')
            return tensors[inside]
    return {key: from_json(item, tensors) for key, item in value.items()}


def split_optimizer_state(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's ``state_dict()`` into tensors and plain JSON; ``join_optimizer_state`` undoes it.

    Works for any nesting of dicts (keys ``str`` or ``int``), lists and tuples, so for several optimisers
    in one dict too.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.AdamW([weight], lr=1e-3)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> tensors, rest = split_optimizer_state(optimizer.state_dict())
    >>> sorted(tensors)
    ['state.0.exp_avg', 'state.0.exp_avg_sq', 'state.0.step']
    >>> join_optimizer_state(tensors, rest)["param_groups"][0]["betas"]
    (0.9, 0.999)
    """
    tensors: dict[str, Tensor] = {}
    rest = to_json(dict(state_dict), "optimizer", tensors)
    return tensors, rest


def join_optimizer_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Put a split optimiser state together again."""
    state: dict[str, Any] = from_json(rest, tensors)
    return state


def random_state(
    generators: Mapping[str, torch.Generator] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every random generator a run may draw from, as tensors and plain JSON.

    torch's own (CPU, and CUDA where there is one), Python's ``random``, numpy's global one, and the named
    ``generators`` passed in.

    >>> tensors, rest = random_state()
    >>> drawn = torch.rand(3), random.random(), np.random.rand()
    >>> set_random_state(tensors, rest)
    >>> torch.equal(torch.rand(3), drawn[0]), random.random() == drawn[1], np.random.rand() == drawn[2]
    (True, True, True)
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "numpy": torch.from_numpy(np.asarray(keys, np.int64)),
        **{f"cuda.{device}": state for device, state in enumerate(cuda)},
        **{f"generator.{name}": generator.get_state() for name, generator in (generators or {}).items()},
    }
    rest = {
        "python": [version, gauss],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
    }
    return tensors, rest


def set_random_state(
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    generators: Mapping[str, torch.Generator] | None = None,
) -> None:
    """Restore what ``random_state`` returned.

    CUDA generators are restored for the devices that exist. A name in ``generators`` that the state does
    not hold is a ``CheckpointError``.
    """
    for name, generator in (generators or {}).items():
        if f"generator.{name}" not in tensors:
            raise CheckpointError(f'the checkpoint holds no random generator "{name}"')
        generator.set_state(tensors[f"generator.{name}"])
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    for device in range(torch.cuda.device_count()):
        if f"cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{device}"], device)


def _layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int], int]:
    """The file's header, where the data of each stored tensor starts in the file, and the file's size."""
    stored, tied = _untie(tensors)
    metadata: dict[str, dict[str, Any]] = {"tied": dict(tied), "strides": {}, "dtypes": {}}
    offsets: dict[str, int] = {}
    end = 0
    for name in sorted(stored, key=lambda name: -stored[name].element_size()):  # keeps all of them aligned
        offsets[name] = end
        end += stored[name].nbytes
    entries: dict[str, Any] = {}
    for name, tensor in stored.items():
        dtype, shape, stride = _NAMES.get(tensor.dtype), list(tensor.shape), tensor.stride()
        if dtype is None:
            metadata["dtypes"][name] = [str(tensor.dtype).removeprefix("torch."), shape]
            dtype, shape = "U8", [tensor.nbytes]
        if not tensor.is_contiguous() and stride == torch.empty_like(tensor, device="meta").stride():
            metadata["strides"][name] = list(stride)  # dense, in another order than the file's
        span = [offsets[name], offsets[name] + tensor.nbytes]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
    own = {"steepest": json.dumps(metadata)} if any(metadata.values()) else {}
    text = json.dumps({_METADATA: {"format": "pt", **own}, **entries}).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + end


def _untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and for every other name the name of the stored one that it is."""
    first: dict[Any, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f'tensor "{name}" is not dense with data of its own: it cannot be stored')
        if name == _METADATA:
            raise CheckpointError(f'a tensor cannot be named "{name}": the file format uses that name')
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
        owner = first.setdefault((*memory, tensor.shape, tensor.stride()), name) if tensor.numel() else name
        if owner != name:
            tied[name] = owner
    return {name: tensor for name, tensor in tensors.items() if name not in tied}, tied


def _read(file: Tensor) -> dict[str, Tensor]:
    data = 8 + int.from_bytes(file[:8].numpy().tobytes(), "little")
    entries = json.loads(file[8:data].numpy().tobytes())
    metadata = json.loads(entries.pop(_METADATA, {}).get("steepest", "{}"))
    strides, dtypes = metadata.get("strides", {}), metadata.get("dtypes", {})
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= file.numel() - data:
            raise ValueError(f'"{name}" lies outside the file')
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if name in dtypes:
            dtype, shape = getattr(torch, dtypes[name][0]), dtypes[name][1]
        tensor = file[data + start : data + end].clone().view(dtype).view(shape)
        if name in strides:
            tensor = torch.empty_strided(shape, strides[name], dtype=dtype).copy_(tensor)
        tensors[name] = tensor
    return tensors | {name: tensors[owner] for name, owner in metadata.get("tied", {}).items()}
