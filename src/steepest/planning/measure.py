"""Measure this machine: its matrix product, and the seconds of a real training step at a few widths.

Between measured widths the seconds per token are interpolated in log-log:

    ln s(N) = linear interpolation of (ln N_i, ln s_i),     N = matrix parameters

because at small widths the cost is overhead (flat) and at large ones arithmetic (slope 1).
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from steepest.data import Batch
from steepest.data.examples import AnyBatch
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken, Objective
from steepest.optim import OptimConfig, build_optimizer
from steepest.train.speed import seconds_of
from steepest.train.spikes import SpikeGuard
from steepest.train.step import train_step


def matrix_product_flops(
    *, size: int = 1024, seconds: float = 0.1, device: torch.device | None = None
) -> float:
    """Floating-point operations per second of a large float32 matrix product with the present threads."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    torch.mm(left, right)[0, 0].item()  # an item is there when the product is done, on a GPU too
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        torch.mm(left, right)[0, 0].item()
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - began)


class StepProbe:
    """A real training step of a model that is thrown away, on random tokens; call it to do one.

    Args:
        objective: puts an objective on the trunk, to be stepped on ``batch``; next-token prediction if ``None``.
    """

    def __init__(
        self,
        model: TransformerConfig,
        optim: OptimConfig,
        *,
        sequences: int,
        micro_batch: int,
        device: torch.device,
        autocast: torch.dtype | None,
        objective: Callable[[Transformer], Objective] | None = None,
        batch: AnyBatch | None = None,
    ) -> None:
        trunk = Transformer(model, generator=torch.Generator().manual_seed(0))
        made = objective(trunk) if objective else NextToken(trunk, np.ones(model.vocab_size, dtype=np.int64))
        self.objective: Objective = made.to(device)
        self.optimizers = build_optimizer(self.objective.named_parameters(), optim, self.objective.roles(),
                                          lr=1e-3, splits=self.objective.splits())  # fmt: skip
        self.guard, self.micro_batch, self.autocast, self.clip = (
            SpikeGuard(),
            micro_batch,
            autocast,
            optim.clip,
        )
        ids = torch.randint(0, model.vocab_size, (sequences, model.context + 1),
                            generator=torch.Generator().manual_seed(0)).to(device)  # fmt: skip
        text = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None, ids[:, 1:].numel())
        self.batch: AnyBatch = text if batch is None else batch.to(device)

    def __call__(self) -> None:
        """Forward, backward, clip and update once."""
        train_step(self.objective, self.batch, self.optimizers, self.guard, factor=1.0, clip=self.clip,
                   micro_batch=self.micro_batch, autocast=self.autocast)  # fmt: skip

    def seconds_per_token(self, repeats: int = 3) -> float:
        """Median seconds of a step over its tokens."""
        return seconds_of(self, repeats=repeats) / self.batch.ids_BT.numel()


def interpolate_speed(measured: Mapping[int, float], parameters: float) -> float:
    """Seconds per token at some number of matrix parameters, from measured ``{parameters: seconds}``.

    Beyond the largest measured size the cost grows in proportion (it is arithmetic by then); below the
    smallest it stays.

    >>> round(interpolate_speed({1000: 1e-6, 4000: 4e-6}, 2000) * 1e6, 3)
    2.0
    >>> round(interpolate_speed({1000: 1e-6, 4000: 4e-6}, 8000) * 1e6, 3)
    8.0
    """
    sizes: Sequence[int] = sorted(measured)
    if parameters > sizes[-1]:
        return measured[sizes[-1]] * parameters / sizes[-1]
    return float(
        np.exp(np.interp(np.log(parameters), np.log(sizes), np.log([measured[size] for size in sizes])))
    )
