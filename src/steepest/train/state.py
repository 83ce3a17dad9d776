"""Everything a run must remember to go on bit for bit, to and from a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steepest.checkpoint import join_optimizer_state, random_state, set_random_state, split_optimizer_state
from steepest.data.examples import TrainBatches
from steepest.errors import CheckpointError
from steepest.objectives import Objective
from steepest.optim import Optimizers
from steepest.train.deadline import DeadlineController, Schedule
from steepest.train.spikes import SpikeGuard


@dataclass
class TrainState:
    """The moving parts of a run, and where it stands."""

    objective: Objective
    optimizers: Optimizers
    batches: TrainBatches
    schedule: Schedule
    guard: SpikeGuard
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # wall clock of the whole run so far, over all of its sessions
    best: dict[str, float] = field(default_factory=dict)  # {"step": ..., metric: ...} of the best evaluation
    stale: int = 0  # evaluations since that one

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of a checkpoint: one safetensors file for the model, one for the optimiser."""
        optimizer, _ = split_optimizer_state(self.optimizers.state_dict())
        return {
            "model": dict(self.objective.state_dict()),
            "optimizer": optimizer,
            "random": random_state()[0],
        }

    def record(self) -> dict[str, Any]:
        """The rest of a checkpoint, as JSON."""
        _, optimizer = split_optimizer_state(self.optimizers.state_dict())
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best": self.best,
            "stale": self.stale,
            "optimizer": optimizer,
            "batches": self.batches.state_dict(),
            "schedule": self.schedule.state_dict(),
            "guard": self.guard.state_dict(),
            "random": random_state()[1],
        }

    def restore(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        record: Mapping[str, Any],
        decisions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Put a checkpoint back; shapes that do not fit the configured model are an error naming the first.

        ``decisions`` are those the schedule made after the checkpoint, in a session that was lost: repeated.
        """
        model = tensors["model"]
        own = self.objective.state_dict()
        for name in [*own, *model]:
            here = tuple(own[name].shape) if name in own else None
            there = tuple(model[name].shape) if name in model else None
            if here != there:
                raise CheckpointError(
                    f"checkpoint does not fit the configured model: {name} is {there} in the checkpoint "
                    f"and {here} in the model; was run.toml edited?"
                )
        self.objective.load_state_dict(dict(model))
        self.optimizers.load_state_dict(join_optimizer_state(tensors["optimizer"], record["optimizer"]))
        self.batches.load_state_dict(record["batches"])
        if isinstance(self.schedule, DeadlineController):
            self.schedule.load_state_dict(record["schedule"], decisions)
        else:
            self.schedule.load_state_dict(record["schedule"])
        self.guard.load_state_dict(record["guard"])
        self.step, self.tokens = int(record["step"]), int(record["tokens"])
        self.seconds = float(record["seconds"])
        self.best, self.stale = dict(record["best"]), int(record.get("stale", 0))
        set_random_state(tensors["random"], record["random"])
