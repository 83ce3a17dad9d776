"""Compose a ``RunConfig`` into parts, wire the hooks, train, evaluate, and say what was reached.

    run.toml -> RunConfig -> corpus, tokenizer -> trunk -> objective -> optimisers, batches, schedule
             -> loop -> evaluation -> result.json

The clock: ``--time`` is the whole wall clock of the command. What is left when training starts, less a
reserve for the last evaluation, checkpoint and sample, belongs to the deadline controller.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from steepest.config import RoomConfig, parse_bytes
from steepest.data import BatchesConfig, DataConfig
from steepest.data.examples import Examples, TrainBatches
from steepest.errors import ConfigError
from steepest.health.config import HealthConfig
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextTokenConfig, Objective, ObjectiveConfig
from steepest.optim import OptimConfig, build_optimizer
from steepest.tokenizer import TokenizerConfig
from steepest.train.deadline import DeadlineController, StepSchedule
from steepest.train.spikes import SpikeGuard
from steepest.train.state import TrainState
from steepest.train.trackers import TrackerName, check_trackers

Listener = Callable[[str, dict[str, Any]], None]


class TrainConfig(RoomConfig):
    """Budget and habits of a run. Exactly one of ``time``, ``steps``, ``tokens``, ``epochs`` is given."""

    time: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="wall clock of the whole command, seconds"
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps")
    tokens: int | None = Field(None, ge=1, description="tokens trained on")
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False, description="passes over the training text")
    most_steps: int | None = Field(
        None, ge=1, description="steps that are enough: a run by the clock ends early after so many"
    )
    seed: int = Field(0, ge=0, description="initial weights and dropout (the data order has its own)")
    micro_batch: int | None = Field(None, ge=1, description="sequences held at once; none: chosen by shape")
    threads: int | None = Field(None, ge=1, description="compute threads; none: the fastest, measured")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: a GPU if there is one"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the matrix products; auto: bfloat16 on a GPU; on a CPU float32, or by the clock bfloat16 where that is faster",
    )
    compile: bool | None = Field(
        None, description="torch.compile the blocks; none: where it pays in the time"
    )
    backward: Literal["store", "recompute", "invert"] | None = Field(
        None, description="how gradients are made; none: store, or invert where the coupling is reversible"
    )
    recompute_blocks: int | None = Field(
        None,
        ge=0,
        description="first blocks computed again in the backward pass; none: all if backward is recompute",
    )
    step_in_backward: bool | None = Field(
        None,
        description="update each weight as its gradient comes; neither clipping nor micro-batches; none: if nothing else fits",
    )
    memory: int | None = Field(
        None, description='bytes the process may take ("2GB"); none: what is free, less a margin'
    )
    trackers: list[TrackerName] = Field(
        [], description='where the figures go besides metrics.jsonl: "tensorboard", "wandb", "trackio"'
    )
    log_every: int = Field(1, ge=1, description="steps between metric lines")
    evaluations: int = Field(10, ge=0, description="evaluations during the run, evenly spaced")
    evaluate_tokens: int | None = Field(
        None, ge=1, description="held-out tokens for those; none: 1% of training"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a new best; none: never"
    )
    start: str | None = Field(None, description="folder of the run whose weights this one went on from")
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; none: by the clock"
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="seconds between checkpoints")
    keep: int = Field(3, ge=1, description="newest checkpoints kept; the best one is kept besides")
    expected_tokens: int | None = Field(
        None, ge=1, description="tokens the time is expected to buy; measured"
    )
    samples: int | None = Field(
        None, ge=0, description="short samples during the run; none: 3 in runs of two minutes or more"
    )
    sample_tokens: int = Field(200, ge=0, description="length of the sample written at the end")

    @field_validator("memory", mode="before")
    @classmethod
    def _in_bytes(cls, value: Any) -> Any:
        amount = parse_bytes(value) if isinstance(value, str) else value
        if isinstance(amount, int) and amount <= 0:
            raise ValueError("a memory limit must be more than 0 bytes")
        return amount

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainConfig":
        given = [name for name in ("time", "steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of time, steps, tokens, epochs; got {' and '.join(given)}")
        return self


class RunConfig(RoomConfig):
    """Everything that makes a run, one table per room; written to ``run.toml`` with all choices resolved."""

    objective: ObjectiveConfig = NextTokenConfig()
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: TransformerConfig = TransformerConfig()
    batches: BatchesConfig = BatchesConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _no_clipping_within_the_backward_pass(self) -> "RunConfig":
        if self.train.step_in_backward and self.optim.clip:
            raise ValueError(
                "train.step_in_backward updates weights before the norm of all gradients is known, so nothing can be "
                f"clipped: set optim.clip = 0 (it is {self.optim.clip:g}), or leave step_in_backward out"
            )
        return self


def compose(
    config: RunConfig, examples: Examples, build_objective: Callable[[RunConfig, Transformer], Objective]
) -> TrainState:
    """Build every part of a run from its resolved config; nothing is written.

    Args:
        build_objective: puts the objective on a trunk (a kind of run knows how, see ``train/kinds/``).
    """
    device = resolve_device(config.train.device)
    check_trackers(config.train.trackers)
    torch.manual_seed(config.train.seed)  # dropout draws from torch's own generators; a checkpoint holds them
    trunk = Transformer(
        config.model,
        generator=torch.Generator().manual_seed(config.train.seed),
        backward=config.train.backward,
        recompute_blocks=config.train.recompute_blocks,
    )
    objective = build_objective(config, trunk).to(device)
    if config.train.compile:
        trunk.compile_blocks()
    batches = examples.train_batches(
        config.batches, context=config.model.context, rows=sequences_per_step(config)
    )
    optimizers = build_optimizer(
        objective.named_parameters(), config.optim, objective.roles(), splits=objective.splits()
    )
    optimizers.in_backward = bool(config.train.step_in_backward)
    return TrainState(
        objective=objective,
        optimizers=optimizers,
        batches=batches,
        schedule=_schedule(config, batches),
        guard=SpikeGuard(config.optim.spike_window, config.optim.spike_sigmas, config.optim.spike_limit),
    )


def sequences_per_step(config: RunConfig) -> int:
    """Sequences of one optimiser step: the batch in tokens over the context."""
    tokens = config.batches.batch_tokens or config.model.context
    return max(1, round(tokens / config.model.context))


def resolve_device(name: str) -> torch.device:
    """The device to train on; ``auto`` takes a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f'device "{name}" was asked for, but this machine (or this torch) has no GPU; use "cpu"'
        )
    return torch.device(name)


def resolve_autocast(config: RunConfig, device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products, or ``None`` for plain float32."""
    dtype = config.train.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if dtype == "bfloat16" else None


def _schedule(config: RunConfig, batches: TrainBatches) -> DeadlineController | StepSchedule:
    if config.train.time is not None:
        return DeadlineController(config.optim, seconds=config.train.time, most_steps=config.train.most_steps)
    return StepSchedule(config.optim, total_steps=total_steps(config, batches.n_sequences))


def total_steps(config: RunConfig, n_sequences: int) -> int:
    """Optimiser steps that a budget in steps, tokens or epochs means."""
    train, batch = config.train, sequences_per_step(config)
    if train.steps is not None:
        return train.steps
    if train.tokens is not None:
        return max(1, round(train.tokens / (batch * config.model.context)))
    if train.epochs is not None:
        return max(1, round(train.epochs * n_sequences / batch))
    raise ConfigError('no budget: give one of --time (such as "10m"), --steps, --tokens or --epochs')
