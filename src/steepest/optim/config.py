"""What can be set about optimisation, and the rule for the learning rate when none is given."""

from typing import Literal, Self

from pydantic import Field, model_validator

from steepest.config import RoomConfig

OptimizerName = Literal["muon", "adamw", "sgd"]
ScheduleName = Literal["wsd", "linear", "cosine", "constant"]
# A step shrinks weights by lr * decay, and SGD's rates are a hundred times those of the others, its momentum on top.
WEIGHT_DECAY = {"sgd": 1e-4}


class OptimConfig(RoomConfig):
    """Settings of the optimiser, its learning-rate schedule, clipping and the guard against spikes.

    >>> OptimConfig(optimizer="adamw", lr=3e-3).weight_decay, OptimConfig(optimizer="sgd").weight_decay
    (0.1, 0.0001)
    """

    optimizer: OptimizerName = Field(
        "muon", description="muon (matrices by Muon, the rest by AdamW), adamw or sgd"
    )
    lr: float | None = Field(
        None, gt=0, description="peak learning rate; left out, a rule from optimiser, width and batch"
    )
    embedding_lr: float = Field(2.0, ge=0, description="the embedding's rate, as a multiple of lr")
    head_lr: float = Field(0.5, ge=0, description="the vocabulary head's rate, as a multiple of lr")
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="AdamW's decay rates of the running mean and mean square of the gradient"
    )
    eps: float = Field(1e-8, gt=0, description="AdamW's term in the denominator")
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of Muon and SGD")
    nesterov: bool = Field(True, description="look one step ahead with the momentum (Muon and SGD)")
    muon_steps: int = Field(5, ge=1, le=6, description="Newton-Schulz steps of Muon")
    weight_decay: float = Field(
        default_factory=lambda data: WEIGHT_DECAY.get(data.get("optimizer"), 0.1),
        ge=0,
        description="weight decay, on matrices only; left out, 0.1, or 1e-4 with sgd",
    )
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 switches clipping off")
    schedule: ScheduleName = Field(
        "wsd", description="wsd (warm-up, stable, linear cooldown), linear, cosine or constant"
    )
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the run in which the rate rises")
    cooldown: float = Field(0.9, ge=0, le=1, description="share of the run in which wsd's rate falls")
    final_lr: float = Field(0.0, ge=0, le=1, description="end of the rate, as a share of its peak")
    spike_sigmas: float = Field(
        6.0,
        gt=0,
        description="skip a step whose loss or gradient norm lies this many deviations above the mean",
    )
    spike_window: int = Field(128, ge=8, description="how many past steps that mean and deviation cover")
    spike_limit: int = Field(10, ge=1, description="stop after this many skipped steps in a row")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas must lie in [0, 1); got {self.betas}")
        if self.schedule == "wsd" and self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup and cooldown are shares of one run and may add up to 1 at most; "
                f"got {self.warmup:g} + {self.cooldown:g}"
            )
        return self


# Peak rates at width 128 and 2,048 tokens a batch (Muon and AdamW measured on Tiny Shakespeare, see docs).
_REFERENCE_LR: dict[OptimizerName, float] = {"muon": 1e-2, "adamw": 4e-3, "sgd": 0.5}
_REFERENCE_WIDTH = 128
_REFERENCE_BATCH_TOKENS = 2048


def default_lr(optimizer: OptimizerName, *, width: int, batch_tokens: int) -> float:
    r"""The peak learning rate when none is set.

    :math:`\eta = \eta_{128}\,(128/\text{width})^{1/2}\,(\text{tokens a batch}/2048)^{1/4}`, the last ratio held
    between 1/4 and 64.

    >>> default_lr("adamw", width=128, batch_tokens=2048)
    0.004
    >>> default_lr("adamw", width=512, batch_tokens=2048)
    0.002
    """
    batch_ratio = min(max(batch_tokens / _REFERENCE_BATCH_TOKENS, 0.25), 64.0)
    return float(_REFERENCE_LR[optimizer] * (_REFERENCE_WIDTH / width) ** 0.5 * batch_ratio**0.25)
