"""The training loop: take a batch, do a step, remember it, call the hooks; until the schedule says done.

Knows nothing of health, plans or screens: whatever wants to watch is a hook, an ``(every, function)``
pair wired in ``train/run.py``. A hook's function gets the state and the step's record; ``every`` counts steps.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from steepest.train.state import TrainState
from steepest.train.step import train_step

Record = dict[str, Any]
Hook = tuple[int, Callable[[TrainState, Record], None]]


def run_loop(
    state: TrainState,
    *,
    lr: float,
    clip: float,
    micro_batch: int | Callable[[], int],
    autocast: torch.dtype | None = None,
    hooks: Sequence[Hook] = (),
    interrupted: Callable[[], bool] = lambda: False,
    enough: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> bool:
    """Train until the schedule is done or it is ``enough``; returns ``False`` when interrupted before that.

    Each record holds step, tokens, loss (nats per target), grad_norm before clipping, the verdict, and the
    rate: ``lr``, the peak, times the schedule's factor. A ``micro_batch`` that is a function is asked every step.
    """
    state.objective.train()
    while not (state.schedule.done(state.step) or enough()):
        if interrupted():
            return False
        began = time.perf_counter()
        factor = state.schedule.factor(state.step)
        batch = state.batches.at(state.step).to(device)
        result = train_step(
            state.objective,
            batch,
            state.optimizers,
            state.guard,
            factor=factor,
            clip=clip,
            micro_batch=micro_batch if isinstance(micro_batch, int) else micro_batch(),
            autocast=autocast,
        )
        state.step += 1
        state.tokens += result.tokens
        record: Record = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": result.loss,
            "lr": lr * factor,
            "grad_norm": result.grad_norm,
            "verdict": result.verdict,
        }
        # Before the hooks: a checkpoint of this step must hold what the schedule decided at it.
        state.schedule.observe(state.step, time.perf_counter() - began)
        for every, hook in hooks:
            if state.step % every == 0:
                hook(state, record)
    return True
