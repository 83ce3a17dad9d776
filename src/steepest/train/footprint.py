"""The memory of a run's own step, before it runs: ``train_step`` on fake tensors.

    predict_training(config)      the peak of one optimiser step, micro-batches and all
    measure_training(config)      the same step for real
    predict_inference(config)     of a forward pass without gradients, for evaluation

The model is built fake, so no weight is ever allocated; a stack deeper than eight blocks is extrapolated from
shallower ones, exactly (``memory/predict.py``). Where a batch is split, from the second micro-batch on the gradients
of the first are there already: that is the one which is run, for it takes the most and all later ones are like it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from steepest.data import Batch
from steepest.losses import chunked_token_losses
from steepest.memory.measure import allocator_timeline
from steepest.memory.predict import Observation, Prediction, extrapolate, observe, summarise
from steepest.memory.tracker import ROUNDING, Phase
from steepest.model import Transformer
from steepest.objectives import NextToken
from steepest.optim import Optimizers, build_optimizer
from steepest.train.run import RunConfig, resolve_autocast, resolve_device, sequences_per_step
from steepest.train.spikes import SpikeGuard
from steepest.train.step import train_step

PER_TOKEN = 16  # bytes of a batch: an int64 id and an int64 target


def predict_training(
    config: RunConfig,
    *,
    micro_batch: int | None = None,
    recompute_blocks: int | None = None,
    whole: bool = False,
) -> Prediction:
    """Peak of one optimiser step of a run.

    Args:
        config: the run's; its model must be resolved.
        micro_batch: sequences held at once, instead of the config's.
        recompute_blocks: blocks recomputed, instead of the config's.
        whole: run the real depth instead of extrapolating; slow for deep models, and has a timeline.
    """
    began = time.perf_counter()
    train = config.train
    micro = micro_batch or train.micro_batch or sequences_per_step(config)
    micro = min(micro, sequences_per_step(config))
    k = (train.recompute_blocks or 0) if recompute_blocks is None else recompute_blocks
    parts = math.ceil(sequences_per_step(config) / micro)
    device = resolve_device(train.device)

    def run(zones: tuple[int, ...]) -> Observation:
        with FakeTensorMode(allow_non_fake_inputs=True), device:
            objective, optimizers = _parts(config, zones)
            _make_state(objective, optimizers, accumulating=parts > 1)
            arguments = (objective, optimizers, _batch(config, micro))
            return _observe(_step(config, micro), arguments, objective, device)

    zones = (k, config.model.depth - k)
    prediction = summarise(run(zones) if whole else extrapolate(run, zones))
    waiting = PER_TOKEN * config.model.context * (sequences_per_step(config) - micro)
    return _completed(prediction, waiting, parts, time.perf_counter() - began)


def measure_training(config: RunConfig) -> list[int]:
    """The same step done for real on the CPU: live bytes above those at its beginning, by the allocator's count."""
    micro = min(config.train.micro_batch or sequences_per_step(config), sequences_per_step(config))
    k = config.train.recompute_blocks or 0
    objective, optimizers = _parts(config, (k, config.model.depth - k))
    batch, step = _batch(config, micro), _step(config, micro)
    for _ in range(2):  # the optimiser's state, then the kernels' own scratch
        step(objective, optimizers, batch)
    if sequences_per_step(config) > micro:
        _make_state(objective, optimizers, accumulating=True)
    return allocator_timeline(lambda: step(objective, optimizers, batch))


def predict_inference(config: RunConfig, *, sequences: int, whole: bool = False) -> Prediction:
    """Peak of a forward pass over so many whole sequences, without gradients, up to each token's loss."""
    began = time.perf_counter()
    device = resolve_device(config.train.device)

    def run(zones: tuple[int, ...]) -> Observation:
        with FakeTensorMode(allow_non_fake_inputs=True), device:
            objective = _objective(config, depth=zones[0], recompute_blocks=0).eval()

            @torch.no_grad()
            def step(objective: NextToken, batch: Batch) -> None:
                with torch.autocast(
                    device.type, dtype=torch.bfloat16, enabled=resolve_autocast(config, device) is not None
                ):
                    chunked_token_losses(
                        objective.hidden(batch), objective.head.weight, batch.targets_BT.flatten()
                    )

            return _observe(step, (objective, _batch(config, sequences)), objective, device)

    zones = (config.model.depth,)
    prediction = summarise(run(zones) if whole else extrapolate(run, zones))
    return _completed(prediction, 0, 1, time.perf_counter() - began)


def _objective(config: RunConfig, *, depth: int, recompute_blocks: int) -> NextToken:
    """The run's objective at some depth, on whatever device and tensors are the default."""
    trunk = Transformer(config.model.replace(**{**config.model.model_dump(), "depth": depth}))
    backward = config.train.backward
    if config.model.coupling == "residual":
        backward = "recompute" if recompute_blocks else "store"
    trunk.set_backward(backward, recompute_blocks or None)
    return NextToken(trunk, np.ones(config.model.vocab_size, dtype=np.int64), config.objective)


def _parts(config: RunConfig, zones: tuple[int, ...]) -> tuple[NextToken, Optimizers]:
    """A run's objective and optimisers, with so many blocks recomputed and stored."""
    objective = _objective(config, depth=sum(zones), recompute_blocks=zones[0])
    optimizers = build_optimizer(
        objective.named_parameters(), config.optim, objective.roles(), lr=1e-3, splits=objective.splits()
    )
    return objective, optimizers


def _step(config: RunConfig, micro_batch: int) -> Callable[[NextToken, Optimizers, Batch], None]:
    autocast = resolve_autocast(config, resolve_device(config.train.device))

    def step(objective: NextToken, optimizers: Optimizers, batch: Batch) -> None:
        train_step(objective, batch, optimizers, SpikeGuard(), factor=1.0, clip=config.optim.clip,
                   micro_batch=micro_batch, autocast=autocast)  # fmt: skip

    return step


def _batch(config: RunConfig, sequences: int) -> Batch:
    ids_BT = torch.zeros(sequences, config.model.context, dtype=torch.int64)
    documents_BT = torch.zeros_like(ids_BT) if config.batches.document_mask else None
    return Batch(ids_BT, torch.zeros_like(ids_BT), documents_BT, ids_BT.numel())


def _make_state(objective: NextToken, optimizers: Optimizers, *, accumulating: bool) -> None:
    """Let the optimiser make its state, as the first step does; leave gradients, as the first micro-batch does."""
    for parameter in objective.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizers.step()
    if not accumulating:
        optimizers.zero_grad()


def _observe(
    step: Callable[..., Any], arguments: tuple[Any, ...], objective: NextToken, device: torch.device
) -> Observation:
    blocks = {block: index for index, block in enumerate(objective.trunk.blocks)}
    return observe(step, arguments, blocks=blocks, loss=objective.trunk.norm, rounding=ROUNDING[device.type])


def _completed(prediction: Prediction, waiting: int, repeats: int, seconds: float) -> Prediction:
    """Add the part of the batch that was not run: its bytes lie there, its micro-batches repeat the work."""

    def longer(counts: dict[Phase, float]) -> dict[Phase, float]:
        return {phase: n * (1 if phase == "update" else repeats) for phase, n in counts.items()}

    return replace(
        prediction,
        peak=prediction.peak + waiting,
        steady=prediction.steady + waiting,
        phases={
            phase: replace(moment, batch=moment.batch + waiting)
            for phase, moment in prediction.phases.items()
        },
        flops=longer(prediction.flops),
        traffic=longer(prediction.traffic),
        operations=longer(prediction.operations),
        timeline=[(phase, live + waiting) for phase, live in prediction.timeline],
        seconds=seconds,
    )
