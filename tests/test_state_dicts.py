"""State dicts as bytes and JSON: every bit comes back, and any safetensors reader agrees."""

import json
import math
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from steepest.errors import CheckpointError
from steepest.state_dicts import (
    bytes_size,
    from_json,
    join_optimizer_state,
    random_state,
    set_random_state,
    split_optimizer_state,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
)

KNOWN = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
UNKNOWN = [torch.complex64, torch.complex128, torch.float8_e4m3fnuz, torch.float8_e8m0fnu]


def bits(tensor: torch.Tensor) -> Any:
    """Everything about a tensor's values: NaN payloads and signed zeros too."""
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return tensor.dtype, tuple(tensor.shape), flat.reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = KNOWN + UNKNOWN) -> torch.Tensor:
    """Any bit pattern, any dtype, 0 to 4 dimensions, maybe empty, maybe permuted."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    n_bytes = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    raw = draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    data = torch.tensor(list(raw), dtype=torch.uint8)
    if dtype == torch.bool:
        data %= 2
    return data.view(dtype).view(shape).permute(draw(st.permutations(range(len(shape)))))


names = st.text(max_size=5).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(names, tensors(), max_size=4))
def test_tensors_come_back_bit_for_bit(group: dict[str, torch.Tensor]) -> None:
    file = tensors_to_bytes(group)
    assert file.numel() == bytes_size(group)
    back = tensors_from_bytes(file)
    assert {name: bits(tensor) for name, tensor in back.items()} == {n: bits(t) for n, t in group.items()}
    for name, tensor in group.items():
        assert (
            back[name].is_contiguous() if tensor.is_contiguous() else back[name].stride() == tensor.stride()
        )


@given(st.dictionaries(st.text("abc.é0", max_size=5), tensors(KNOWN), max_size=4))
def test_the_library_reads_our_files_and_we_read_its(group: dict[str, torch.Tensor]) -> None:
    expected = {name: bits(tensor) for name, tensor in group.items()}
    theirs = load(tensors_to_bytes(group).numpy().tobytes())
    assert {name: bits(tensor) for name, tensor in theirs.items()} == expected
    contiguous = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in group.items()}
    file = torch.frombuffer(bytearray(save(contiguous)), dtype=torch.uint8)
    assert {name: bits(tensor) for name, tensor in tensors_from_bytes(file).items()} == expected


def test_tied_tensors_are_stored_once_and_come_back_tied() -> None:
    embedding = torch.nn.Parameter(torch.randn(50, 8))
    file = tensors_to_bytes({"embedding": embedding, "head": embedding, "copy": embedding.detach().clone()})
    back = tensors_from_bytes(file)
    assert back["head"] is back["embedding"] is not back["copy"]
    assert torch.equal(back["head"], embedding) and not back["head"].requires_grad
    assert file.numel() < 2 * embedding.nbytes + 1000
    assert load(file.numpy().tobytes()).keys() == {"embedding", "copy"}


def test_views_of_one_memory_come_back_as_tensors_of_their_own() -> None:
    base = torch.arange(12.0)
    group = {
        "all": base,
        "slice": base[3:7],
        "every other": base[::2],
        "expanded": base[:3].expand(4, 3),
        "reshaped": base.view(3, 4),
        "transposed": base.view(3, 4).T,
        "negated": torch.complex(base, base).conj().imag,
        "conjugated": torch.complex(base, base).conj(),
    }
    back = tensors_from_bytes(tensors_to_bytes(group))
    for name, tensor in group.items():
        assert torch.equal(back[name], tensor), name
    assert len({tensor.untyped_storage().data_ptr() for tensor in back.values()}) == len(group)
    assert back["transposed"].stride() == (1, 4)
    assert back["expanded"].is_contiguous()


def test_channels_last_keeps_its_strides() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    back = tensors_from_bytes(tensors_to_bytes({"image": image}))["image"]
    assert back.stride() == image.stride() and torch.equal(back, image)


def test_every_tensor_is_aligned_and_a_buffer_is_used_again() -> None:
    group = {
        "a": torch.ones(3, dtype=torch.int8),
        "b": torch.ones(5, dtype=torch.float64),
        "c": torch.ones(1),
    }
    first = tensors_to_bytes(group)
    again = tensors_to_bytes({"a": torch.zeros(3, dtype=torch.int8)}, first)
    assert again.data_ptr() == first.data_ptr() and again.numel() < first.numel()
    assert torch.equal(tensors_from_bytes(again)["a"], torch.zeros(3, dtype=torch.int8))
    assert tensors_to_bytes(group, again).data_ptr() != first.data_ptr()  # too small: a new one


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (2,), check_invariants=True)
    for tensor in (torch.empty(2, device="meta"), sparse):
        with pytest.raises(CheckpointError, match='"bad"'):
            tensors_to_bytes({"bad": tensor})
    with pytest.raises(CheckpointError, match="__metadata__"):
        tensors_to_bytes({"__metadata__": torch.ones(1)})


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=200)
def test_garbage_is_an_error_and_nothing_worse(raw: bytes, framed: bool) -> None:
    data = len(raw).to_bytes(8, "little") + raw if framed else raw
    with pytest.raises(CheckpointError, match="safetensors"):
        tensors_from_bytes(torch.tensor(list(data), dtype=torch.uint8))


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[2],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[1],"data_offsets":[4,8]}',
        '{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}',
        '{"dtype":"F31","shape":[1],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":"x","data_offsets":[0,4]}',
        "[]",
    ],
)
def test_a_header_that_lies_is_an_error(entry: str) -> None:
    header = ('{"weight":' + entry + "}").encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    with pytest.raises(CheckpointError):
        tensors_from_bytes(torch.frombuffer(bytearray(data), dtype=torch.uint8))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
keys = st.text(max_size=4) | st.integers() | st.sampled_from(["$tuple", "$dict", "$float", "$tensor", "$"])
values = st.recursive(
    scalars,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.lists(inside, max_size=3).map(tuple)
        | st.dictionaries(keys, inside, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_values_come_back_exactly_through_strict_json(value: Any) -> None:
    encoded = to_json(value)
    text = json.dumps(encoded, allow_nan=False)
    back = from_json(json.loads(text))
    assert repr(back) == repr(value)  # kinds, order, -0.0, nan and every digit
    assert repr(from_json(from_json(json.loads(json.dumps(to_json(encoded)))))) == repr(value)


def test_subclasses_come_back_as_their_plain_kind() -> None:
    value = {"i": np.int64(3), "f": np.float32(0.1), "d": OrderedDict(b=1, a=2), "n": np.float64("nan")}
    back = from_json(json.loads(json.dumps(to_json(value))))
    assert repr(back) == f"{{'i': 3, 'f': {float(np.float32(0.1))!r}, 'd': {{'b': 1, 'a': 2}}, 'n': nan}}"


@pytest.mark.parametrize("bad", [{1, 2}, object(), b"bytes", 1j, torch.ones(1), np.ones(2)])
def test_what_json_cannot_hold_is_refused_with_its_path(bad: Any) -> None:
    with pytest.raises(CheckpointError, match=r"state\.loop\.0\.x is a "):
        to_json({"loop": [{"x": bad}]})


@given(
    st.recursive(
        scalars | tensors([torch.float32, torch.bfloat16, torch.int64]),
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.lists(inside, max_size=3).map(tuple)
            | st.dictionaries(keys | st.sampled_from(["a", "a.b", "__metadata__"]), inside, max_size=3)
        ),
        max_leaves=10,
    ).map(lambda value: {"a": value, "a.b": value, "b": {"a": value, "0": value, 0: value}})
)
def test_any_nested_state_splits_and_joins(state: dict[str, Any]) -> None:
    parts, rest = split_optimizer_state(state)
    file = tensors_to_bytes(parts)
    back = join_optimizer_state(tensors_from_bytes(file), json.loads(json.dumps(rest, allow_nan=False)))

    def spelled(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return repr(bits(value))
        if isinstance(value, (list, tuple)):
            return type(value).__name__ + "[" + ",".join(map(spelled, value)) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{key!r}:{spelled(item)}" for key, item in value.items()) + "}"
        return repr(value)

    assert spelled(back) == spelled(state)


def test_a_missing_tensor_is_named() -> None:
    parts, rest = split_optimizer_state({"state": {0: {"momentum": torch.ones(1)}}})
    del parts["state.0.momentum"]
    with pytest.raises(CheckpointError, match=r"state\.0\.momentum"):
        join_optimizer_state(parts, rest)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    groups = [{"params": parameters[:1], "weight_decay": 0.1, "role": "matrix"}, {"params": parameters[1:]}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))


OPTIMIZERS = {
    "adamw": adamw,
    "amsgrad": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3), amsgrad=True, foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "muon": lambda p: torch.optim.Muon(p[:1], lr=0.1, adjust_lr_fn="match_rms_adamw"),
    "adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_an_optimizer_goes_on_as_if_never_stopped(kind: str, before: int) -> None:
    def begin() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(1)
        shapes = [(4, 6), (5,)]
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        return parameters, OPTIMIZERS[kind](parameters)

    def train(parameters: Any, optimizer: Any, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    never_stopped, optimizer = begin()
    train(never_stopped, optimizer, range(before))
    weights = tensors_to_bytes({str(i): parameter for i, parameter in enumerate(never_stopped)})
    parts, rest = split_optimizer_state(optimizer.state_dict())
    file, text = tensors_to_bytes(parts), json.dumps(rest)
    train(never_stopped, optimizer, range(before, before + 4))

    resumed, optimizer = begin()
    with torch.no_grad():
        for parameter, saved in zip(resumed, tensors_from_bytes(weights).values(), strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(join_optimizer_state(tensors_from_bytes(file), json.loads(text)))
    train(resumed, optimizer, range(before, before + 4))
    assert [bits(parameter.detach()) for parameter in resumed] == [bits(p.detach()) for p in never_stopped]


def test_random_generators_go_on_as_if_never_stopped() -> None:
    own = torch.Generator().manual_seed(5)
    kept = random_state()

    def draw() -> Any:
        return (
            (torch.rand(3).tolist(), torch.randn(3).tolist(), torch.rand(2, generator=own).tolist()),
            (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()),
        )

    try:
        draw()  # an odd number of normals: each generator now holds a spare one
        parts, rest = random_state({"dropout": own})
        file, text = tensors_to_bytes(parts), json.dumps(rest)
        expected = draw()
        draw()
        set_random_state(tensors_from_bytes(file), json.loads(text), {"dropout": own})
        assert draw() == expected
        with pytest.raises(CheckpointError, match='"noise"'):
            set_random_state(tensors_from_bytes(file), json.loads(text), {"noise": own})
    finally:
        set_random_state(*kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_and_generators() -> None:
    state = random_state()
    expected = torch.rand(3, device="cuda")
    set_random_state(*state)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert torch.equal(tensors_from_bytes(tensors_to_bytes({"a": expected}))["a"], expected.cpu())
