"""Peak memory before a byte is allocated: the step itself, run on fake tensors and counted.

    peak = max over the step of  weights + optimiser state + gradients + batch + activations

Nothing is estimated. The function that trains is called with tensors that have shapes but no data, and every
operation's storages are counted as they come and go (``tracker.py``). So whatever the step does (recompute,
accumulate, update inside backward, cast) is predicted by the code that will run.

**Any depth from two shallow runs.** In a stack of equal blocks every stretch of the step (a block's forward, a
block's backward, the n-th call of an operation outside the blocks) has a peak that is affine in the number of
blocks. Matched stretch by stretch, two depths give all others to the byte:

    peak_s(d) = peak_s(3) + (d - 3) (peak_s(4) - peak_s(3)),      peak(d) = max over s of peak_s(d)

(But for tensors that are shorter than an allocation's rounding and grow with depth: clipping's list of norms.)
Where blocks are of two sorts (some recomputed, the rest stored) each sort is a zone with its own count.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from steepest.memory.fake import faked, tensors_of
from steepest.memory.tracker import KINDS, ROUNDING, Bytes, Key, Kind, Phase, Tracker

FEWEST = 3  # blocks of a zone in the smaller of two runs: a first, one like all others, a last


@dataclass(frozen=True)
class Moment:
    """Bytes by kind at one moment: the peak of a phase."""

    weights: int = 0
    optimiser: int = 0
    gradients: int = 0
    batch: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.optimiser + self.gradients + self.batch + self.activations


@dataclass(frozen=True)
class Prediction:
    """What a step will take.

    Attributes:
        peak: bytes at the worst moment.
        steady: bytes that are there when the step begins: weights, optimiser state, batch, and
            the gradients of earlier micro-batches.
        held: activations that wait for the backward pass at the end of forward.
        phases: the worst moment of each phase ("forward", "backward", "between", "update").
        layer: what the most demanding block adds while it runs forward.
        loss: what head and loss add: logits (or a chunk of them) and their gradients.
        flops: floating-point operations by phase.
        traffic: bytes read and written by phase, caches ignored.
        operations: calls by phase.
        timeline: phase and live bytes after every operation; empty when extrapolated.
        seconds: how long it took to predict.
    """

    peak: int
    steady: int
    held: int
    phases: dict[Phase, Moment]
    layer: int
    loss: int
    flops: dict[Phase, float]
    traffic: dict[Phase, float]
    operations: dict[Phase, float]
    seconds: float
    timeline: list[tuple[Phase, int]] = field(default_factory=list, repr=False)

    @property
    def worst(self) -> Moment:
        """The worst moment of all, by kind."""
        return max(self.phases.values(), key=lambda moment: moment.total)

    def table(self) -> str:
        """Megabytes by phase and kind, as text."""
        lines = [f"{'MB':<10}" + "".join(f"{kind:>13}" for kind in (*KINDS, "in all"))]
        for phase in get_args(Phase):
            moment = self.phases.get(phase, Moment())
            counts = [*(getattr(moment, kind) for kind in KINDS), moment.total]
            lines.append(f"{phase:<10}" + "".join(f"{count / 1e6:>13,.2f}" for count in counts))
        lines.append(f"held {self.held / 1e6:,.2f}, most demanding layer {self.layer / 1e6:,.2f}, after the layers "
                     f"{self.loss / 1e6:,.2f}")  # fmt: skip
        return "\n".join(lines)


@dataclass(frozen=True)
class Observation:
    """Raw counts of one run, which can be extrapolated."""

    peaks: dict[Key, Bytes]
    steady: Bytes
    held: Bytes
    climbs: dict[Key, int]
    flops: dict[Phase, float]
    traffic: dict[Phase, float]
    operations: dict[Phase, float]
    timeline: list[tuple[Phase, int]]


def predict(step: Callable[..., Any], *arguments: Any, rounding: int = ROUNDING["cpu"]) -> Prediction:
    """What ``step(*arguments)`` takes, without running it on data or changing anything.

    The arguments (modules, optimisers, batches, anything that holds tensors) are copied with fake tensors in the
    place of the real ones; modules and optimisers that the step uses must be among them. The step is called
    twice, and the second call counted: the optimiser's state exists by then. A step that looks at values of
    tensors is told 1. The layers, of which the most demanding one is told, are the children of the largest
    ``ModuleList`` or ``Sequential``.

    >>> import torch
    >>> model = nn.Linear(1000, 1000, bias=False)  # 4 MB
    >>> def step(model, x):
    ...     model(x).sum().backward()
    ...     model.zero_grad()
    >>> prediction = predict(step, model, torch.zeros(1, 1000))
    >>> prediction.worst.weights, prediction.worst.gradients, model.weight.grad
    (4000000, 4000000, None)
    """
    began = time.perf_counter()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        arguments = faked(mode, arguments)
        with Tracker():  # the first call makes the optimiser's state
            step(*arguments)
        observed = observe(step, arguments, blocks=_layers(arguments), rounding=rounding)
    return summarise(observed, seconds=time.perf_counter() - began)


def observe(
    step: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    blocks: Mapping[nn.Module, int] | None = None,
    loss: nn.Module | None = None,
    rounding: int = ROUNDING["cpu"],
) -> Observation:
    """Run ``step(*arguments)`` as it is (on fake tensors or on real ones) and count.

    ``blocks`` numbers the equal blocks of a stack, if the counts are to be extrapolated in depth; ``loss``
    is the last module before the loss: when it returns, a stretch called "loss" begins.
    """
    tracker = Tracker(rounding)
    modules: list[nn.Module] = []
    for kind, tensor in tensors_of(arguments, set(), modules):
        tracker.add(tensor, kind)
    steady = tuple(tracker.live.values())
    with tracker:
        watched = nn.ModuleList(modules)
        with tracker.watching(watched, blocks or {}, loss):
            step(*arguments)
    held = tracker.held or tuple(tracker.live.values())
    return Observation(
        tracker.peaks, steady, held, tracker.climbs, dict(tracker.flops), dict(tracker.traffic),
        dict(tracker.operations), tracker.timeline,
    )  # fmt: skip


def bytes_by_kind(arguments: Sequence[Any], *, rounding: int = 1) -> dict[Kind, int]:
    """Bytes of all tensors that objects hold.

    >>> import torch
    >>> model = nn.Linear(10, 10)
    >>> bytes_by_kind((model, torch.optim.SGD(model.parameters()), torch.zeros(4)))
    {'weights': 440, 'optimiser': 0, 'gradients': 0, 'batch': 16, 'activations': 0}
    """
    tracker = Tracker(rounding)
    for kind, tensor in tensors_of(arguments, set(), []):
        tracker.add(tensor, kind)
    return dict(tracker.live)


def summarise(observed: Observation, *, seconds: float = 0.0) -> Prediction:
    """Turn counts into a prediction."""
    phases: dict[Phase, Moment] = {}
    for key, peak in observed.peaks.items():
        moment = Moment(**dict(zip(KINDS, peak, strict=True)))
        # Of equal moments the later one, at which a gradient is known to be one.
        known = phases.get(key[0], Moment())
        if (moment.total, moment.gradients) > (known.total, known.gradients):
            phases[key[0]] = moment
    activations = KINDS.index("activations")
    climbs = observed.climbs
    return Prediction(
        peak=max((moment.total for moment in phases.values()), default=sum(observed.steady)),
        steady=sum(observed.steady),
        held=observed.held[activations] - observed.steady[activations],
        phases=phases,
        layer=max((climbs[key] for key in climbs if key[:2] == ("forward", "block")), default=0),
        loss=max(
            (climbs[key] for key in climbs if key[:2] in (("forward", "loss"), ("forward", "ends"))),
            default=0,
        ),
        flops=observed.flops,
        traffic=observed.traffic,
        operations=observed.operations,
        seconds=seconds,
        timeline=observed.timeline,
    )


def _layers(arguments: Sequence[Any]) -> dict[nn.Module, int]:
    """The layers of the deepest stack among some objects: children of the container with the most weights."""
    modules: list[nn.Module] = []
    list(tensors_of(arguments, set(), modules))
    stacks = [
        part for module in modules for part in module.modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 1
    ]  # fmt: skip
    largest = max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=None)
    return {} if largest is None else {layer: index for index, layer in enumerate(largest)}


def extrapolate(run: Callable[[tuple[int, ...]], Observation], zones: tuple[int, ...]) -> Observation:
    """Counts of a stack of blocks, from runs of stacks that are shallow: exact.

    Args:
        run: counts of a stack whose zones have so many blocks each, numbered from the first on.
        zones: blocks of each zone, such as ``(4, 12)``: four recomputed, then twelve stored.

    >>> def run(zones):  # a block holds 10 bytes
    ...     peaks = {("forward", "block", i): (0, 0, 0, 0, 10 * (i + 1)) for i in range(zones[0])}
    ...     return Observation(peaks, (0,) * 5, (0, 0, 0, 0, 10 * zones[0]), {}, {}, {}, {}, [])
    >>> summarise(extrapolate(run, (64,))).peak
    640
    """
    base = tuple(min(count, FEWEST) if count > FEWEST + 1 else count for count in zones)
    if base == zones:
        return run(zones)
    first = _Matched(run(base), base)
    others = []
    for zone, count in enumerate(zones):
        if count != base[zone]:
            deeper = tuple(n + (i == zone) for i, n in enumerate(base))
            others.append((count - base[zone], _Matched(run(deeper), deeper)))

    def extended(part: str) -> dict[Any, Any]:
        start = getattr(first, part)
        ends = [(times, getattr(other, part)) for times, other in others]
        keys = set(start).intersection(*(end for _, end in ends))
        if part == "peaks":
            # The n-th call is the same one in a deeper stack only if that has as many of them.
            keys = {key for key in keys if len(key) < 4 or key[1] == "block"
                    or all(first.calls[key[:3]] == other.calls[key[:3]] for _, other in others)}  # fmt: skip
        return {key: _line(start[key], [(times, end[key]) for times, end in ends]) for key in keys}

    single = extended("single")
    return Observation(
        extended("peaks"), single["steady"], single["held"], extended("climbs"), extended("flops"),
        extended("traffic"), extended("operations"), [],
    )  # fmt: skip


class _Matched:
    """Counts whose stretches are named so that two depths can be compared."""

    def __init__(self, observed: Observation, zones: tuple[int, ...]) -> None:
        places = _places(zones)
        self.peaks: dict[Key, Bytes] = {}
        self.climbs: dict[Key, int] = {}
        self.calls: Counter[Key] = Counter()
        for key, peak in observed.peaks.items():
            if key[1] != "block":
                self.calls[key[:3]] += 1
            for name in _names(key, places):
                if sum(peak) > sum(self.peaks.get(name, ())):
                    self.peaks[name] = peak
        for key, climb in observed.climbs.items():
            for name in _names(key, places):
                self.climbs[name] = max(climb, self.climbs.get(name, 0))
        self.flops, self.traffic, self.operations = observed.flops, observed.traffic, observed.operations
        self.single = {"steady": observed.steady, "held": observed.held}


def _places(zones: tuple[int, ...]) -> list[list[Key]]:
    """For each block its names: zone, and its place from either end."""
    names = []
    for zone, count in enumerate(zones):
        for index in range(count):
            from_start, from_end = min(index, 1), max(index - count, -2)
            names.append([(zone, from_start)] * (index < 2) + [(zone, from_end)] * (count - index <= 2))
    return names


def _names(key: Key, places: list[list[Key]]) -> Iterator[Key]:
    phase, kind, *rest = key
    if kind == "block":
        for place in places[rest[0]]:
            yield (phase, kind, *place)
    else:
        yield key
        if len(rest) == 2:  # operations that a deeper stack has more of are matched by their name alone
            yield (phase, kind, rest[0])


def _line(start: Any, ends: Sequence[tuple[int, Any]]) -> Any:
    """``start`` and, for every end, so many times the difference; numbers or tuples of numbers."""
    if isinstance(start, tuple):
        return tuple(a + sum(times * (end[i] - a) for times, end in ends) for i, a in enumerate(start))
    return start + sum(times * (end - start) for times, end in ends)
