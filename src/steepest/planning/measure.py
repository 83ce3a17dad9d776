"""Measure this machine: its matrix product, and the seconds of a real training step at a few widths.

Between measured widths the seconds per token are interpolated in log-log:

    ln s(N) = linear interpolation of (ln N_i, ln s_i),     N = matrix parameters

because at small widths the cost is overhead (flat) and at large ones arithmetic (slope 1).
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steepest.data import Batch
from steepest.data.examples import AnyBatch
from steepest.model import Transformer, TransformerConfig
from steepest.model.size import n_matrix_parameters
from steepest.objectives import NextToken, Objective
from steepest.optim import OptimConfig, build_optimizer
from steepest.optim.muon import product_dtype
from steepest.planning.crew import Crew
from steepest.planning.rules import MICRO_BATCH_TOKENS, default_micro_batch, member
from steepest.train.run import RunConfig, resolve_autocast, resolve_device
from steepest.train.speed import fastest_threads, seconds_of, thread_candidates, usable_cores
from steepest.train.spikes import SpikeGuard
from steepest.train.step import train_step

MEASURING_SHARE = 0.25  # of the time, all that comes before it included, after which no more is measured
PROBING_SHARE = 0.03  # of the time, after which no further size is timed
PROBE_TOKENS = 2048  # of the steps that are timed
# Seconds that training will take, from which on it is tried whether compiling pays.
COMPILING_TIME = {"cpu": 1200.0, "cuda": 500.0}
COMPILING_GAIN = 0.03  # of a step's seconds, from which on it does
OWN_SHARE, REPEATS = 0.01, 4  # of the time, that timing the run's own step may take; how often it is done
SETTLING_TOKENS = 1024  # of those that only decide on threads and dtype, and of all where the time is short
HASTY = 60.0  # seconds, below which it is
WIDE = 128  # from where on parameters tell how fast a model is, whatever its depth
PROBED = (
    ((1, 128), 0.0),
    ((4, 128), 0.0),
    ((1, 32), 100.0),
    ((2, 64), 100.0),
    ((6, 256), 240.0),
    ((8, 512), 3600.0),
)  # shapes, with the least time for each


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains.

    Attributes:
        measured: seconds per token of a step, by matrix parameters.
        slowness: how many times as long steps take in a run as in a measurement.
    """

    measured: dict[int, float] = field(default_factory=dict)
    slowness: float = 1.0

    def seconds_per_token(self, parameters: float) -> float:
        """Of a model of some matrix parameters, interpolated."""
        return self.slowness * interpolate_speed(self.measured, parameters)

    def times(self, slowness: float) -> "Pace":
        """The same, slower."""
        return replace(self, slowness=self.slowness * slowness)


def measure_pace(given: RunConfig, fixed: dict[str, Any], device: torch.device, started: float) -> Pace:
    """Time real steps of a few sizes, or of the one the user gave."""
    assert given.train.time is not None
    sized = bool({"depth", "width"} & given.model.model_fields_set)
    shapes = [shape for shape, least in PROBED if given.train.time >= least]
    probes = [TransformerConfig(**fixed)] if sized else [member(fixed, shape) for shape in shapes]
    measured: dict[int, float] = {}
    began, budget = time.monotonic(), given.train.time
    tokens, repeats = (SETTLING_TOKENS, 2) if budget < HASTY else (PROBE_TOKENS, 3)
    for model in probes:
        spent = time.monotonic() - began > PROBING_SHARE * budget
        if measured and (spent or time.monotonic() - started > MEASURING_SHARE * budget):
            break
        measured[n_matrix_parameters(model)] = StepProbe(
            **_probe(given, model, device, tokens)
        ).seconds_per_token(repeats)
    return Pace(measured)


def own_pace(
    given: RunConfig, model: TransformerConfig, device: torch.device, batch_tokens: int, pace: Pace
) -> Pace:
    """The pace, corrected by a step of the run's own batch: larger than those that sizes are timed with, it costs less a token.

    Left as it is where the time is short, and on a GPU, whose memory need not hold that batch at once.
    """
    assert given.train.time is not None
    if given.train.time < HASTY or device.type != "cpu":
        return pace
    expected = pace.seconds_per_token(n_matrix_parameters(model))
    while batch_tokens > PROBE_TOKENS and REPEATS * batch_tokens * expected > OWN_SHARE * given.train.time:
        batch_tokens //= 2
    probe = StepProbe(**_probe(given, model, device, batch_tokens))
    return pace.times(probe.seconds_per_token(REPEATS - 1) / expected)


def compiled_slowness(
    given: RunConfig, model: TransformerConfig, device: torch.device, batch_tokens: int
) -> float | None:
    """How many times as long a step takes whose blocks are compiled; ``None`` if they cannot be compiled."""
    probe = StepProbe(**_probe(given, model, device, min(batch_tokens, MICRO_BATCH_TOKENS)))
    eager = seconds_of(probe, repeats=REPEATS)
    probe.objective.trunk.compile_blocks()
    try:
        return seconds_of(probe, repeats=REPEATS) / eager
    except (RuntimeError, OSError):  # of the compiler, which may not even be installed
        return None
    finally:
        torch.compiler.reset()


def settle_compiling(
    given: RunConfig, model: TransformerConfig, device: torch.device, batch_tokens: int, *, seconds: float
) -> tuple[RunConfig, float | None]:
    """Whether blocks are compiled: as the user says, or as steps say where many seconds are left; and the slowness measured."""
    if given.train.compile is not None or seconds < COMPILING_TIME.get(device.type, math.inf):
        return given, None
    slowness = compiled_slowness(given, model, device, batch_tokens)
    pays = slowness is not None and slowness < 1 - COMPILING_GAIN
    return given.replace(train=given.train.replace(compile=pays)), slowness


def rung_pace(given: RunConfig, models: Sequence[TransformerConfig], pace: Pace, *, workers: int = 1) -> Pace:
    """How fast rungs train, whose shapes are not those that ``pace`` was measured on: the narrow ones are timed.

    Args:
        workers: processes of one thread each that time the same side by side; the slowest counts.
    """
    device = resolve_device(given.train.device)
    sizes = {n_matrix_parameters(model): model for model in models}

    def measured() -> Iterator[dict[int, float]]:
        yield {
            size: StepProbe(**_probe(given, model, device, SETTLING_TOKENS)).seconds_per_token(repeats=2)
            for size, model in sizes.items() if model.width < WIDE
        }  # fmt: skip

    if workers == 1:
        narrow = next(measured())
    else:
        with Crew(workers) as crew:
            for _ in range(workers):
                crew.start(measured)
            told = list(crew.results())
        narrow = {size: max(one[size] for one in told) for size in told[0]}
    # A wide one keeps all cores busy alone, so on its share of them it is as many times as slow.
    return Pace(no_slower({size: narrow.get(size, workers * pace.seconds_per_token(size)) for size in sizes}))


def no_slower(measured: dict[int, float]) -> dict[int, float]:
    """No size slower than a larger one: where it seems so, something else ran while it was timed.

    >>> no_slower({1: 5.0, 2: 2.0, 3: 3.0})
    {1: 2.0, 2: 2.0, 3: 3.0}
    """
    return {size: min(other for larger, other in measured.items() if larger >= size) for size in measured}


def settle(
    given: RunConfig, model: TransformerConfig, device: torch.device, record: dict[str, Any]
) -> RunConfig:
    """Thread count and dtype that make a real step of a middling model fastest, where they were left open.

    One thread comes first: on a busy machine several can be twenty times slower, and measuring must stay short.
    """
    train = given.train
    if device.type == "cpu":
        candidates = [train.threads] if train.threads else sorted(thread_candidates())
        torch.set_num_threads(candidates[0])
        dtypes: tuple[str, ...] = (train.dtype,)
        if train.dtype == "auto":  # where bfloat16 is emulated, a step may take ten times as long
            native = product_dtype(torch.zeros(1)) == torch.bfloat16
            dtypes = ("float32", "bfloat16") if native else ("float32",)
        probes = {
            dtype: StepProbe(
                **_probe(given.replace(train=train.replace(dtype=dtype)), model, device, SETTLING_TOKENS)
            )
            for dtype in dtypes
        }
        seconds = {dtype: seconds_of(probe, repeats=2) for dtype, probe in probes.items()}
        dtype = min(seconds, key=lambda name: seconds[name])
        if seconds[dtype] > 0.9 * seconds.get("float32", math.inf):
            dtype = "float32"  # a small gain is not worth the rounding
        record["step_seconds_by_dtype"] = seconds
        threads = candidates[0]
        if len(candidates) > 1:
            threads, record["step_seconds_by_threads"] = fastest_threads(
                probes[dtype], candidates, repeats=2, known={threads: seconds[dtype]}
            )
        train = train.replace(dtype=dtype, threads=threads)
    record["flops"] = matrix_product_flops(device=device)
    return given.replace(train=train)


def machine(device: torch.device) -> dict[str, Any]:
    """What this machine is, for telling it from another: the processor and how many cores may be used, or the GPU."""
    if device.type == "cuda":
        return {"device": "cuda", "processor": torch.cuda.get_device_name(device), "cores": 1}
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    return {"device": device.type, "processor": name, "cores": usable_cores()}


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


def _probe(
    given: RunConfig, model: TransformerConfig, device: torch.device, tokens: int = PROBE_TOKENS
) -> dict[str, Any]:
    tokens = min(given.batches.batch_tokens or tokens, tokens)
    return {
        "model": model,
        "optim": given.optim,
        "sequences": max(1, round(tokens / model.context)),
        "micro_batch": given.train.micro_batch or default_micro_batch(tokens, model.context, device),
        "device": device,
        "autocast": resolve_autocast(given, device),
    }
