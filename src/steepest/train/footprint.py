"""The memory of a run's own step, before it runs: ``train_step`` on fake tensors.

    predict_training(config)      the peak of one optimiser step, micro-batches and all
    measure_training(config)      the same step for real
    predict_inference(config)     of a forward pass without gradients, for evaluation

The model is built fake, so no weight is ever allocated; a stack deeper than eight blocks is extrapolated from
shallower ones, exactly (``memory/predict.py``). Where a batch is split, from the second micro-batch on the gradients
of the first are there already: that is the one which is run, for it takes the most and all later ones are like it.
An objective that accumulates in a way of its own is run with the whole batch.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from steepest.data import Batch
from steepest.data.examples import AnyBatch, Examples
from steepest.losses import chunked_token_losses
from steepest.memory.fake import faked
from steepest.memory.measure import allocator_timeline
from steepest.memory.predict import (
    Observation,
    Prediction,
    bytes_by_kind,
    extrapolate,
    observe,
    summarise,
)
from steepest.memory.tracker import ROUNDING, Phase
from steepest.model import Transformer
from steepest.objectives import NextToken, NextTokenConfig, Objective
from steepest.optim import Optimizers, build_optimizer
from steepest.train.run import RunConfig, resolve_autocast, resolve_device, sequences_per_step
from steepest.train.spikes import SpikeGuard
from steepest.train.step import train_step

LOOKED_AT = 4  # batches, of which the largest is taken


@dataclass(frozen=True)
class Subject:
    """Whose memory is asked for.

    Attributes:
        build_objective: puts the objective on a trunk.
        batch: one step's; windows of text if ``None``.
    """

    build_objective: Callable[[RunConfig, Transformer], Objective]
    batch: AnyBatch | None = None


def subject_of(
    config: RunConfig, examples: Examples, build_objective: Callable[[RunConfig, Transformer], Objective]
) -> Subject:
    """The subject of a run. Batches of text are alike; of other kinds the largest of the first few is taken."""
    kind: str = config.objective.kind
    if kind == "next-token":
        return TEXT
    rows = sequences_per_step(config)
    batches = examples.train_batches(config.batches, context=config.model.context, rows=rows)
    largest = max((batches.at(step) for step in range(LOOKED_AT)), key=lambda batch: batch.ids_BT.numel())
    return Subject(build_objective, largest)


def predict_training(
    config: RunConfig,
    subject: Subject | None = None,
    *,
    micro_batch: int | None = None,
    recompute_blocks: int | None = None,
    whole: bool = False,
    every: bool = False,
    known: dict[tuple[int, ...], Observation] | None = None,
) -> Prediction:
    """Peak of one optimiser step of a run.

    Args:
        config: the run's; its model must be resolved.
        subject: objective and batch; next-token prediction if ``None``.
        micro_batch: sequences held at once, instead of the config's.
        recompute_blocks: blocks recomputed, instead of the config's.
        whole: run the real depth instead of extrapolating; slow for deep models, and has a timeline.
        every: run every micro-batch instead of one that stands for all.
        known: counts of shallow stacks by (micro-batch, blocks of each sort), used and added to; predictions that
            differ in those only may share it.
    """
    began, subject = time.perf_counter(), subject or TEXT
    micro = _micro_batch(config, micro_batch)
    k = _recomputed(config) if recompute_blocks is None else recompute_blocks
    device = resolve_device(config.train.device)
    batch = subject.batch or _text(config)
    parts = batch.split(micro)
    # The second micro-batch stands for all of them where each adds its gradient and is gone.
    alike = not every and not has_own_gradient(config, subject)
    repeats = len(parts) if alike else 1
    known = {} if known is None else known

    def run(zones: tuple[int, ...]) -> Observation:
        if (micro, *zones) not in known:
            known[micro, *zones] = counted(zones)
        return known[micro, *zones]

    def counted(zones: tuple[int, ...]) -> Observation:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, device:
            objective, optimizers = _parts(config, subject, zones)
            _make_state(objective, optimizers, accumulating=repeats > 1)
            stepped, waiting = faked(mode, (parts[0] if alike else batch, batch), device)
            arguments = (objective, optimizers, stepped, waiting)
            return _observe(_step(config, micro), arguments, objective, device)

    zones = (k, config.model.depth - k)
    prediction = summarise(run(zones) if whole else extrapolate(run, zones))
    return _repeated(prediction, repeats, time.perf_counter() - began)


def has_own_gradient(config: RunConfig, subject: Subject | None = None) -> bool:
    """Whether the objective makes its gradient in a way of its own, in several backward passes."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective = _objective(config, subject or TEXT, depth=1, recompute_blocks=0)
    return type(objective).accumulate_gradient is not Objective.accumulate_gradient


def measure_training(config: RunConfig, subject: Subject | None = None) -> list[int]:
    """The same step done for real on the CPU: live bytes after every change, by the allocator's own count."""
    subject, k = subject or TEXT, _recomputed(config)
    objective, optimizers = _parts(config, subject, (k, config.model.depth - k))
    batch, step = subject.batch or _text(config), _step(config, _micro_batch(config))
    for _ in range(2):  # the optimiser's state, then the kernels' own scratch
        step(objective, optimizers, batch, batch)
    changes = allocator_timeline(lambda: step(objective, optimizers, batch, batch))
    steady = sum(bytes_by_kind((objective, optimizers, batch)).values())
    return [steady + change for change in changes]


def predict_inference(config: RunConfig, *, sequences: int, whole: bool = False) -> Prediction:
    """Peak of a forward pass over so many windows of text, without gradients, up to each token's loss."""
    began = time.perf_counter()
    device = resolve_device(config.train.device)
    autocast = resolve_autocast(config, device)

    @torch.no_grad()
    def step(objective: NextToken, batch: Batch) -> None:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            chunked_token_losses(objective.hidden(batch), objective.head.weight, batch.targets_BT.flatten())

    def run(zones: tuple[int, ...]) -> Observation:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, device:
            objective = _objective(config, TEXT, depth=zones[0], recompute_blocks=0).eval()
            (batch,) = faked(mode, (_text(config, sequences),), device)
            return _observe(step, (objective, batch), objective, device)

    zones = (config.model.depth,)
    prediction = summarise(run(zones) if whole else extrapolate(run, zones))
    return _repeated(prediction, 1, time.perf_counter() - began)


def _micro_batch(config: RunConfig, micro_batch: int | None = None) -> int:
    sequences = sequences_per_step(config)
    return min(micro_batch or config.train.micro_batch or sequences, sequences)


def _recomputed(config: RunConfig) -> int:
    """Blocks recomputed, as ``Transformer.set_backward`` has it."""
    train = config.train
    if train.recompute_blocks is None:
        return config.model.depth if train.backward == "recompute" else 0
    return train.recompute_blocks


def _text_objective(config: RunConfig, trunk: Transformer) -> NextToken:
    assert isinstance(config.objective, NextTokenConfig)
    return NextToken(trunk, np.ones(config.model.vocab_size, dtype=np.int64), config.objective)


TEXT = Subject(_text_objective)


def _objective(config: RunConfig, subject: Subject, *, depth: int, recompute_blocks: int) -> Any:
    """The run's objective at some depth, on whatever device and tensors are the default."""
    trunk = Transformer(config.model.replace(**{**config.model.model_dump(), "depth": depth}))
    backward = config.train.backward
    if config.model.coupling == "residual":
        backward = "recompute" if recompute_blocks else "store"
    trunk.set_backward(backward, recompute_blocks or None)
    return subject.build_objective(config, trunk)


def _parts(config: RunConfig, subject: Subject, zones: tuple[int, ...]) -> tuple[Objective, Optimizers]:
    """A run's objective and optimisers, with so many blocks recomputed and stored."""
    objective = _objective(config, subject, depth=sum(zones), recompute_blocks=zones[0])
    optimizers = build_optimizer(
        objective.named_parameters(), config.optim, objective.roles(), lr=1e-3, splits=objective.splits()
    )
    optimizers.in_backward = bool(config.train.step_in_backward)
    return objective, optimizers


def _step(config: RunConfig, micro_batch: int) -> Callable[[Objective, Optimizers, AnyBatch, AnyBatch], None]:
    """A step on a batch, or on that part of it which is passed; the whole lies beside it."""
    autocast = resolve_autocast(config, resolve_device(config.train.device))

    def step(objective: Objective, optimizers: Optimizers, batch: AnyBatch, whole: AnyBatch) -> None:
        train_step(objective, batch, optimizers, SpikeGuard(), factor=1.0, clip=config.optim.clip,
                   micro_batch=micro_batch, autocast=autocast)  # fmt: skip

    return step


def _text(config: RunConfig, sequences: int | None = None) -> Batch:
    """Windows of text, all of one token."""
    shape = (sequences or sequences_per_step(config), config.model.context)
    documents = torch.zeros(shape, dtype=torch.int64) if config.batches.document_mask else None
    targets = torch.zeros(shape, dtype=torch.int64)
    return Batch(torch.zeros(shape, dtype=torch.int64), targets, documents, math.prod(shape))


def _make_state(objective: Objective, optimizers: Optimizers, *, accumulating: bool) -> None:
    """Let the optimiser make its state, as the first step does; leave gradients, as the first micro-batch does."""
    for parameter in objective.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizers.step()
    if not accumulating:
        optimizers.zero_grad()


def _observe(
    step: Callable[..., Any], arguments: tuple[Any, ...], objective: Objective, device: torch.device
) -> Observation:
    blocks = {block: index for index, block in enumerate(objective.trunk.blocks)}
    return observe(step, arguments, blocks=blocks, loss=objective.trunk.norm, rounding=ROUNDING[device.type])


def _repeated(prediction: Prediction, repeats: int, seconds: float) -> Prediction:
    """Add the micro-batches that were not run: they do the same work again."""

    def longer(counts: dict[Phase, float]) -> dict[Phase, float]:
        return {phase: n * (1 if phase == "update" else repeats) for phase, n in counts.items()}

    return replace(
        prediction,
        flops=longer(prediction.flops),
        traffic=longer(prediction.traffic),
        operations=longer(prediction.operations),
        seconds=seconds,
    )
