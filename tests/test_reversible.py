"""Reversible coupling: lossless, the gradient of stored activations bit for bit, nothing held a layer, guarded."""

import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from steepest import api
from steepest.checkpoint import list_checkpoints
from steepest.data import Batch
from steepest.errors import ConfigError, TrainingError
from steepest.memory.reversible import Grid, ReconstructionError, reversible
from steepest.model import Transformer, TransformerConfig, VocabularyHead, generate
from steepest.objectives import NextToken
from steepest.optim import OptimConfig, build_optimizer
from steepest.train import train_step
from steepest.train.spikes import SpikeGuard

VOCABULARY, CONTEXT = 23, 12
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")


def make_trunk(depth: int = 2, *, seed: int = 0, width: int = 32, **fields: object) -> Transformer:
    """A trunk whose output projections are not zero, as they would be at the start."""
    config = TransformerConfig(vocab_size=VOCABULARY, context=CONTEXT, depth=depth, width=width,
                               **{"coupling": "reversible", **fields})  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    trunk = Transformer(config, generator)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return trunk


def make_ids(rows: int = 3) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, CONTEXT), generator=torch.Generator().manual_seed(1))


def loss_and_gradient(
    trunk: Transformer,
    *,
    autocast: bool = False,
    forward: Callable[[Tensor], Tensor] | None = None,
    seed: int = 5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, all gradients, and the next random number: the generator must stand where it would."""
    weights = torch.randn(3, CONTEXT, trunk.config.width, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = ((trunk if forward is None else forward)(make_ids()).float() * weights).sum()
    loss.backward()
    gradients = [parameter.grad for parameter in trunk.parameters()]
    assert all(gradient is not None for gradient in gradients)
    trunk.zero_grad()
    return loss.detach(), torch.cat([g.flatten() for g in gradients if g is not None]), torch.rand(3)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("depth", [1, 64])
def test_rebuilt_and_stored_give_the_same_bits(depth: int, dropout: float, autocast: bool) -> None:
    trunk = make_trunk(depth, dropout=dropout)
    assert trunk.backward == "invert"
    rebuilt = loss_and_gradient(trunk, autocast=autocast)
    trunk.set_backward("store")
    stored = loss_and_gradient(trunk, autocast=autocast)
    for one, other in zip(rebuilt, stored, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert stored[1].norm() > 1


def test_bfloat16_weights_have_float32_streams() -> None:
    trunk = make_trunk(16).to(torch.bfloat16)
    rebuilt = loss_and_gradient(trunk)
    trunk.set_backward("store")
    torch.testing.assert_close(rebuilt[1], loss_and_gradient(trunk)[1], rtol=0, atol=0)


def test_accumulated_micro_batches_and_a_document_mask() -> None:
    ids = make_ids(4)
    documents = torch.arange(CONTEXT).ge(5).long().expand(4, -1)
    batch = Batch(ids, ids.roll(-1, 1), documents, ids.numel())
    found = []
    for backward in ("invert", "store"):
        objective = NextToken(make_trunk(3, dropout=0.2), np.ones(VOCABULARY, np.int64))
        with torch.no_grad():
            objective.head.matrix.copy_(
                torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0))
            )
        objective.trunk.set_backward(backward)
        torch.manual_seed(0)
        objective.accumulate_gradient(batch, micro_batch=1)
        found.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_plain_twin_agrees() -> None:
    """Against torch's own operations for every layer, in float64, where the grid is 2^-45."""
    trunk, ids = make_trunk(4).double(), make_ids()
    torch.testing.assert_close(trunk(ids), trunk(ids, plain=True), rtol=1e-10, atol=1e-10)
    weights = torch.randn(3, CONTEXT, 32, generator=torch.Generator().manual_seed(2)).double()
    gradients = [
        torch.autograd.grad((trunk(ids, plain=plain) * weights).sum(), list(trunk.parameters()))
        for plain in (False, True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("invert", [True, False])
def test_gradient_is_that_of_finite_differences(invert: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 3, generator=generator).double().requires_grad_() for _ in range(5)]
    x = torch.randn(2, 3, generator=generator).double().requires_grad_()

    def stack(x: Tensor, *weights: Tensor) -> Tensor:
        layers = [lambda y, w=w: torch.tanh(y @ w) for w in weights]
        return reversible(
            layers, x, grid=Grid(), parameters=[(w,) for w in weights], invert=invert, random=False
        )

    class Afresh(torch.autograd.Function):
        """Runs the stack anew for every backward pass: gradcheck makes several, the stack allows one."""

        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return stack(*inputs)

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
            inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                return torch.autograd.grad(stack(*inputs), inputs, dy)

    assert torch.autograd.gradcheck(Afresh.apply, (x, *weights))


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_halves_give_the_same_bits_as_compiled_and_stored() -> None:
    trunk = make_trunk(2)
    eager = loss_and_gradient(trunk)
    trunk.compile_blocks()
    rebuilt = loss_and_gradient(trunk)
    trunk.set_backward("store")
    stored = loss_and_gradient(trunk)
    torch.testing.assert_close(rebuilt[1], stored[1], rtol=0, atol=0)
    torch.testing.assert_close(rebuilt[1], eager[1], rtol=1e-4, atol=1e-4)  # other kernels, other rounding


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_whole_model_compiled_leaves_the_streams_alone() -> None:
    trunk = make_trunk(2)
    eager = loss_and_gradient(trunk)
    compiled = loss_and_gradient(trunk, forward=torch.compile(trunk))
    torch.testing.assert_close(compiled[1], eager[1], rtol=1e-4, atol=1e-4)


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Bytes taken (above 0) and given back, as torch's own allocator reports them."""
    sizes: list[int] = []
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        yield sizes
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes += [
        e.nbytes() for e in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    ]


def held_bytes(depth: int, recompute: int = 0, **fields: object) -> int:
    """Bytes that are alive after the forward pass and were not before it."""
    trunk = make_trunk(depth, width=64, **fields)
    trunk.set_backward(recompute_blocks=recompute or None)
    ids = make_ids()
    trunk(ids).sum().backward()
    trunk.zero_grad()
    with allocations() as sizes:
        out = trunk(ids)
    held = sum(sizes)
    del out
    return held


def test_what_is_held_does_not_grow_with_depth() -> None:
    shallow, deep = held_bytes(2), held_bytes(64)
    assert shallow == deep
    residual = held_bytes(2, coupling="residual"), held_bytes(4, coupling="residual")
    assert residual[1] - residual[0] > 2 * shallow  # two blocks of stored activations outweigh it


def test_nothing_is_left_when_the_backward_pass_never_comes() -> None:
    trunk, ids = make_trunk(3), make_ids()
    trunk(ids)
    gc.collect()
    gc.disable()
    try:
        with allocations() as sizes:
            for _ in range(3):
                trunk(ids)
    finally:
        gc.enable()
    # No reference cycle holds the streams: without the collector, all is given back.
    assert sum(sizes) == 0


@pytest.mark.parametrize("range_bits", [8, 12, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_on_the_grid_lose_nothing(range_bits: int, dtype: torch.dtype) -> None:
    grid, generator = Grid(range_bits), torch.Generator().manual_seed(0)
    sizes = torch.logspace(-12, np.log10(2.0**range_bits / 2.1), 5000, dtype=dtype)
    x, d = (sizes * torch.randn(5000, generator=generator, dtype=dtype).sign() for _ in range(2))
    d = d[torch.randperm(5000, generator=generator)]
    x, d = grid.round(x), grid.round(d)
    spacing = grid.spacing(dtype)
    assert torch.equal(x / spacing, (x / spacing).round())  # straight through, and yet on the grid exactly
    assert torch.equal(x + d - d, x)


def test_streams_beyond_the_grid_are_noticed() -> None:
    class Push(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return 200 + 0.01 * torch.sin(100 * y)

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grid = Grid()
    with pytest.raises(ReconstructionError, match="range of 256"):
        reversible([Push() for _ in range(8)], x, grid=grid).sum().backward()
    grid.coarsen()
    reversible([Push() for _ in range(8)], x, grid=grid).sum().backward()
    assert grid.range_bits == 12 and x.grad is not None


def test_a_layer_that_changes_its_mind_is_noticed() -> None:
    calls = iter(range(100))
    x = torch.randn(4, 8, requires_grad=True)
    with pytest.raises(ReconstructionError, match="not deterministic"):
        reversible([lambda y: y * (1 + 1e-3 * next(calls))], x, grid=Grid()).sum().backward()


def test_a_training_step_repeats_on_a_coarser_grid() -> None:
    """The result is that of a step that began on the coarser grid: same dropout, no gradient counted twice."""
    ids = make_ids(4)
    batch = Batch(ids, ids.roll(-1, 1), None, ids.numel())
    states = []
    for range_bits in (8, 12):
        objective = NextToken(make_trunk(2, dropout=0.1), np.ones(VOCABULARY, np.int64))
        with torch.no_grad():
            objective.trunk.embedding.weight.mul_(400)
        assert objective.trunk.grid is not None
        objective.trunk.grid.range_bits = range_bits
        optimizers = build_optimizer(objective.named_parameters(), OptimConfig(lr=1e-2), objective.roles())
        torch.manual_seed(0)
        result = train_step(objective, batch, optimizers, SpikeGuard(), factor=1.0, clip=1.0, micro_batch=2)
        assert result.verdict == "ok" and objective.trunk.grid.range_bits == 12
        states.append(objective.state_dict())
    assert states[0].keys() == states[1].keys() and any("grid" in name for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    other = NextToken(make_trunk(2), np.ones(VOCABULARY, np.int64))
    other.load_state_dict(states[0])
    assert other.trunk.grid is not None and other.trunk.grid.range_bits == 12  # saved with the model


def test_what_is_not_finite_is_left_to_the_spike_guard() -> None:
    trunk = make_trunk(2)
    with torch.no_grad():
        trunk.blocks[1].mlp.down.weight[0, 0] = float("inf")  # type: ignore[union-attr, index, operator]
    trunk(make_ids()).sum().backward()
    assert not trunk.embedding.weight.grad.isfinite().all()  # type: ignore[union-attr]


def test_coarsening_ends_with_advice() -> None:
    grid = Grid()
    with pytest.raises(TrainingError, match=r"diverges.*learning rate.*deterministic"):
        for _ in range(10):
            grid.coarsen()


def test_differentiating_twice_is_refused() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    out = reversible([torch.tanh, torch.sin], x, grid=Grid()).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        out.backward()


def test_frozen_weights_and_inputs() -> None:
    trunk = make_trunk(3)
    for parameter in [*trunk.embedding.parameters(), *trunk.blocks[0].parameters()]:
        parameter.requires_grad_(False)
    gradients = []
    for backward in ("invert", "store"):
        trunk.set_backward(backward)
        trunk(make_ids()).square().sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in trunk.parameters()])
        trunk.zero_grad()
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


def test_generation_with_the_cache_equals_reading_everything_again() -> None:
    trunk = make_trunk(3).double()
    head = VocabularyHead(trunk)
    with torch.no_grad():
        head.matrix.copy_(torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0)))
    head = head.double()
    cached = list(generate(trunk, head, [1, 2, 3], max_tokens=8, temperature=0))
    window = [1, 2, 3]
    with torch.no_grad():
        for _ in range(8):
            window.append(int(head(trunk(torch.tensor([window]))[0, -1]).argmax()))
    assert cached == window[3:]


@pytest.mark.parametrize(
    ("coupling", "backward", "blocks", "message"),
    [
        ("residual", "invert", None, 'backward "invert" is not for coupling "residual"'),
        ("reversible", "recompute", None, 'backward "recompute" is not for coupling "reversible"'),
        ("reversible", None, 1, "recompute"),
        ("residual", "recompute", 3, "must be 0 to 2, the depth; got 3"),
        ("residual", None, -1, "must be 0 to 2, the depth; got -1"),
        ("residual", "store", 1, "recomputes none: leave it out"),
    ],
)
def test_a_backward_that_the_coupling_lacks_is_refused(
    coupling: str, backward: str | None, blocks: int | None, message: str
) -> None:
    config = TransformerConfig(depth=2, width=32, coupling=coupling)
    with pytest.raises(ConfigError, match=message) as caught:
        Transformer(config, backward=backward, recompute_blocks=blocks)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_run_trains_samples_and_resumes_bit_for_bit(text_file: Path, tmp_path: Path) -> None:
    config = {
        "tokenizer": {"kind": "bytes"},
        "model": {"depth": 2, "width": 32, "context": 32, "coupling": "reversible", "dropout": 0.1},
        "batches": {"batch_tokens": 128},
        "optim": {"lr": 1e-2},
        "train": {"threads": 1, "checkpoint_every": 3, "keep": 3, "sample_tokens": 5},
    }
    places = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    folder = api.train(text_file, steps=6, name="whole", config=config, **places).folder
    assert 'coupling = "reversible"' in (folder.path / "run.toml").read_text()

    def outcome() -> list[bytes]:
        names = ("model.safetensors", "optimizer.safetensors")
        return [(list_checkpoints(folder.checkpoints)[-1][1] / name).read_bytes() for name in names]

    straight = outcome()
    api.rewind("whole", to=4, **places)
    assert outcome() == straight
