"""One step of gradient descent: micro-batches -> gradient -> clip -> guard -> rate -> update.

    g = (1 / n) sum over micro-batches of d(loss sum)/dw,     n = counted targets of the whole step

The division is by all targets of the step, not per micro-batch, so that splitting a batch does not
change its gradient (the mean of means is wrong whenever micro-batches hold unequal numbers of targets).

Where the optimisers say so (``in_backward``), each weight is updated inside the backward pass instead, in a step that
neither clips nor accumulates; the guard then only tells.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.checkpoint import random_state, set_random_state
from steepest.data.examples import AnyBatch
from steepest.errors import ConfigError, TrainingError
from steepest.memory.reversible import ReconstructionError
from steepest.objectives import Objective
from steepest.optim import Optimizers, clip_grad_norm_
from steepest.optim.in_backward import updates_in_backward
from steepest.train.spikes import SpikeGuard


@dataclass(frozen=True)
class StepResult:
    """What one step found: mean loss per target in nats, gradient norm before clipping, and the verdict."""

    loss: float
    grad_norm: float
    verdict: str  # "ok", "non-finite" or "outlier", which changed no weight; or "outlier applied"
    tokens: int


def train_step(
    objective: Objective,
    batch: AnyBatch,
    optimizers: Optimizers,
    guard: SpikeGuard,
    *,
    factor: float,
    clip: float,
    micro_batch: int,
    autocast: torch.dtype | None = None,
) -> StepResult:
    """Do one step; a step whose loss or gradient norm is not finite or an outlier changes no weight.

    Args:
        factor: multiplies every group's base rate (the schedule's value at this step).
        clip: the gradient is scaled down to this norm if it is longer; 0 leaves it.
        micro_batch: sequences whose activations are held at once.
    """
    if optimizers.in_backward:
        if clip or micro_batch < len(batch.ids_BT):
            raise ConfigError(
                "weights cannot be updated within the backward pass where gradients are clipped or accumulated: "
                f"expected optim.clip 0 and all {len(batch.ids_BT)} sequences at once, got {clip:g} and {micro_batch}"
            )
        return _step_in_backward(objective, batch, optimizers, guard, factor=factor, autocast=autocast)
    loss = _whole_gradient(objective, batch, optimizers, micro_batch=micro_batch, autocast=autocast)
    norm = clip_grad_norm_(list(objective.parameters()), clip or float("inf"))
    mean, length = loss.item(), norm.item()
    verdict = guard.check(mean, length)
    if verdict == "ok":
        optimizers.set_lr(factor)
        optimizers.step()
    optimizers.zero_grad()
    return StepResult(mean, length, verdict, batch.ids_BT.numel())


def _whole_gradient(
    objective: Objective,
    batch: AnyBatch,
    optimizers: Optimizers,
    *,
    micro_batch: int,
    autocast: torch.dtype | None,
) -> Tensor:
    """The step's gradient; made again on a coarser grid where reversible streams outgrew theirs."""
    grid = objective.trunk.grid
    if grid is None:
        return objective.accumulate_gradient(batch, micro_batch=micro_batch, autocast=autocast)
    while True:
        random = random_state()  # the same dropout the next time
        try:
            return objective.accumulate_gradient(batch, micro_batch=micro_batch, autocast=autocast)
        except ReconstructionError:
            grid.coarsen()
            optimizers.zero_grad()
            set_random_state(*random)


def _step_in_backward(
    objective: Objective,
    batch: AnyBatch,
    optimizers: Optimizers,
    guard: SpikeGuard,
    *,
    factor: float,
    autocast: torch.dtype | None,
) -> StepResult:
    """A step whose gradients are used as they come, one at a time; only the forward pass can be made again."""
    grid, rows = objective.trunk.grid, len(batch.ids_BT)
    optimizers.set_lr(factor)
    if grid is not None:
        grid.eager = True
    while True:
        random = random_state()
        try:
            with updates_in_backward(optimizers) as norms:
                loss = objective.accumulate_gradient(batch, micro_batch=rows, autocast=autocast)
            break
        except ReconstructionError as error:
            assert grid is not None
            if norms:
                raise TrainingError(
                    f"{error}; but weights have been updated within the backward pass already: resume the run "
                    "from its last checkpoint with train.step_in_backward = false"
                ) from None
            grid.coarsen()
            set_random_state(*random)
    mean, length = loss.item(), math.hypot(*norms)
    verdict = str(guard.check(mean, length))
    return StepResult(
        mean, length, "outlier applied" if verdict == "outlier" else verdict, batch.ids_BT.numel()
    )
