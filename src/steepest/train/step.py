"""One step of gradient descent: micro-batches -> gradient -> clip -> guard -> rate -> update.

    g = (1 / n) sum over micro-batches of d(loss sum)/dw,     n = counted targets of the whole step

The division is by all targets of the step, not per micro-batch, so that splitting a batch does not
change its gradient (the mean of means is wrong whenever micro-batches hold unequal numbers of targets).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.checkpoint import random_state, set_random_state
from steepest.data.examples import AnyBatch
from steepest.memory.reversible import ReconstructionError
from steepest.objectives import Objective
from steepest.optim import Optimizers, clip_grad_norm_
from steepest.train.spikes import SpikeGuard


@dataclass(frozen=True)
class StepResult:
    """What one step found: mean loss per target in nats, gradient norm before clipping, and the verdict."""

    loss: float
    grad_norm: float
    verdict: str  # "ok", "non-finite" or "outlier"; only "ok" changed the weights
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
