"""Choose how to fit: the split of a batch that trains fastest within a limit, from predicted bytes and times.

The batch, and so the gradient, stays what it is; only the way to it changes:

    micro-batch m   m sequences at once, ceil(B / m) times              costs a few percent
    recompute k     the first k blocks' activations made again          costs k forward passes of a block
    pages           freed tensors returned to the system (glibc only)   costs page faults

Only when none of them fits, and nothing is clipped, each weight is updated inside the backward pass, so that one
gradient is held and not all of them; the batch must then be whole (``train/split.py`` asks for it).

    seconds(m, k) = ceil(B / m) * [ depth * block(m) * whole / blocks  +  k * forward(m) ]

``block`` and ``forward`` are timed on one block; ``whole / blocks``, the share of everything else, is the ratio of
predicted operations. A process takes more than its live bytes; by how much is a ``Holding``. Bytes are convex in k
(a maximum of affine functions), so the line between k = 0 and k = depth lies above them: the k it gives fits, and
is lowered as far as a prediction of its own confirms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from steepest.errors import ConfigError
from steepest.memory.measure import KEPT_SHARE, RETURNED_SHARE, SCRATCH
from steepest.memory.predict import Prediction

BLOCK_PASSES = 3.0  # a block's forward and backward, in forward passes of arithmetic
SHOWN = 5  # candidates kept to be shown


@dataclass(frozen=True)
class Holding:
    """What a process holds for each live byte: ``peak * (1 + share) + fixed``, and what that costs in time."""

    name: str
    share: float
    fixed: int = 0
    slower: float = 1.0

    def bytes(self, prediction: Prediction) -> int:
        """Bytes of the process for a predicted step.

        >>> from dataclasses import fields
        >>> step = Prediction(**{one.name: 100 if one.name == "peak" else 0 for one in fields(Prediction)})
        >>> Holding("kept", share=0.5, fixed=7).bytes(step)
        157
        """
        return math.ceil(prediction.peak * (1 + self.share)) + self.fixed


# glibc as it comes: cheap, and up to 110% over. With returned pages (mallopt) 3% over, and page faults.
KEPT = Holding("freed pages kept", KEPT_SHARE, SCRATCH)
RETURNED = Holding("freed pages returned", RETURNED_SHARE, SCRATCH, slower=1.4)
# torch's caching allocator: rounding and fragments, and cuBLAS's workspace.
CUDA = Holding("caching allocator", 0.05, 64 << 20)


@dataclass(frozen=True)
class Split:
    """One way to train a batch."""

    micro_batch: int
    recompute_blocks: int
    holding: Holding
    peak: int  # live bytes, predicted
    taken: int  # bytes of the whole process, predicted
    seconds: float  # of one optimiser step, from the timed block; 0 if nothing was timed
    in_backward: bool = False  # whether each weight is updated inside the backward pass

    def reason(self, limit: int, fastest: "Split") -> str:
        """Why it is, or is not, the choice."""
        if self.taken > limit:
            return "does not fit"
        if self == fastest:
            return "the fastest that fits"
        slower = self.seconds / fastest.seconds - 1 if fastest.seconds else 0.0
        return f"{slower:.0%} slower"


class NothingFits(ConfigError):
    """No split fits; ``needed`` bytes would do."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Choice:
    """The fastest split, and those it was compared with, fastest first."""

    split: Split
    considered: list[Split]


def choose_split(
    *,
    sequences: int,
    depth: int,
    limit: int,
    predict: Callable[[int, int], Prediction],
    time_block: Callable[[int], tuple[float, float]],
    holdings: Sequence[Holding] = (KEPT, RETURNED),
    before: int = 0,
    micro_batches: Sequence[int] | None = None,
    recompute: Sequence[int] | None = None,
    in_backward: bool = False,
) -> Choice:
    """Find the fastest split whose process stays within a limit.

    Args:
        sequences: of one optimiser step.
        depth: blocks of the stack.
        limit: bytes of the whole process.
        predict: ``(micro_batch, recompute_blocks)`` to what a step takes.
        time_block: micro-batch to the seconds of one block's forward, and of its forward and backward.
        holdings: ways to hold memory that may be chosen from.
        before: bytes the process takes beside the step.
        micro_batches: those allowed; ``sequences``, its half, a quarter ... 1 if ``None``.
        recompute: the numbers of recomputed blocks allowed at least and at most; 0 to ``depth`` if ``None``.
        in_backward: whether these steps update each weight inside the backward pass.

    Raises:
        NothingFits: says the smallest amount that would do.
    """
    if limit <= 0:
        raise ConfigError(f"a memory limit must be more than 0 bytes; got {limit}")
    least, most = (0, depth) if recompute is None else (min(recompute), max(recompute))
    search = _Search(depth, limit, predict, holdings, before, sequences, in_backward)
    best = math.inf  # seconds of the fastest that fits
    for micro in sorted(micro_batches or halvings(sequences), reverse=True):
        if best == math.inf and not search.add(micro, most):
            continue
        _, block = search.timed[micro] = time_block(micro)
        if math.ceil(sequences / micro) * depth * block >= best:  # the blocks alone, nothing recomputed
            continue
        search.add(micro, least)
        search.add(micro, most)
        if least < most:
            search.solve(micro, least, most)
        best = min([best, *(split.seconds for split in search.splits() if split.taken <= limit)])
    fitting = sorted(
        (split for split in search.splits() if split.taken <= limit), key=lambda split: split.seconds
    )
    if not fitting:
        needed, least_step = min(
            ((holding.bytes(prediction) + before, prediction)
             for prediction in search.known.values() for holding in holdings), key=lambda pair: pair[0],
        )  # fmt: skip
        state = least_step.worst.weights + least_step.worst.optimiser
        raise NothingFits(
            f"nothing fits {_in_mb(limit)}: the least of all splits needs {_in_mb(needed)}, of which {_in_mb(state)} are "
            f"weights and optimiser state and {_in_mb(before)} are taken beside the step; give more",
            needed,
        )
    return Choice(fitting[0], sorted(search.splits(), key=lambda split: split.seconds))


def halvings(sequences: int) -> list[int]:
    """A number, its half, a quarter ... rounded up, down to 1.

    >>> halvings(12)
    [12, 6, 3, 2, 1]
    """
    sizes = [sequences]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


class _Search:
    """Predictions and timings found so far."""

    def __init__(
        self,
        depth: int,
        limit: int,
        predict: Callable[[int, int], Prediction],
        holdings: Sequence[Holding],
        before: int,
        sequences: int,
        in_backward: bool,
    ) -> None:
        self.depth, self.limit, self.predict, self.holdings = depth, limit, predict, holdings
        self.before, self.sequences, self.in_backward = before, sequences, in_backward
        self.known: dict[tuple[int, int], Prediction] = {}
        self.timed: dict[int, tuple[float, float]] = {}

    def add(self, micro: int, k: int) -> bool:
        """Predict; whether it fits in some way of holding."""
        if (micro, k) not in self.known:
            self.known[micro, k] = self.predict(micro, k)
        return any(self.taken(self.known[micro, k], holding) <= self.limit for holding in self.holdings)

    def solve(self, micro: int, least: int, most: int) -> None:
        """For each way of holding, the fewest recomputed blocks that fit."""
        for holding in self.holdings:
            below, above = least, most  # ``below`` does not fit, ``above`` does
            if self.fits(micro, least, holding) or not self.fits(micro, most, holding):
                continue
            while above - below > 1:
                low, high = (self.taken(self.known[micro, k], holding) for k in (above, below))
                share = (high - self.limit) / max(high - low, 1)
                # The line's answer fits; the one below it is asked next, and mostly does not.
                k = min(max(math.ceil(below + share * (above - below)), below + 1), above - 1)
                self.add(micro, k)
                if self.fits(micro, k, holding):
                    above = k
                    self.add(micro, k - 1)
                    if self.fits(micro, k - 1, holding):
                        above = k - 1
                    else:
                        below = k - 1
                else:
                    below = k

    def fits(self, micro: int, k: int, holding: Holding) -> bool:
        return self.taken(self.known[micro, k], holding) <= self.limit

    def taken(self, prediction: Prediction, holding: Holding) -> int:
        return holding.bytes(prediction) + self.before

    def splits(self) -> list[Split]:
        """Every timed prediction in every way of holding."""
        return [
            Split(micro, k, holding, prediction.peak, self.taken(prediction, holding),
                  self.seconds(micro, k) * holding.slower, self.in_backward)
            for (micro, k), prediction in self.known.items() if micro in self.timed
            for holding in self.holdings
        ]  # fmt: skip

    def seconds(self, micro: int, k: int) -> float:
        forward, block = self.timed[micro]
        parts = math.ceil(self.sequences / micro)
        return parts * (self.depth * block * self._whole(micro) + k * forward)

    def _whole(self, micro: int) -> float:
        """Operations of a whole step over those of its blocks, where that is known."""
        of_micro = sorted(
            ((k, p) for (m, k), p in self.known.items() if m == micro), key=lambda pair: pair[0]
        )
        low, high = of_micro[0], of_micro[-1]
        if high[0] == low[0]:
            return 1.0
        forward = (_flops(high[1]) - _flops(low[1])) / (high[0] - low[0])
        blocks = BLOCK_PASSES * self.depth * forward
        return max(1.0, (_flops(low[1]) - low[0] * forward) / blocks) if blocks > 0 else 1.0


def refit(split: Split, taken: int, before: int) -> Holding:
    """The way of holding that explains what a process really took: a split's own, its share raised.

    >>> refit(Split(1, 0, Holding("kept", share=0.1), peak=1000, taken=1100, seconds=1.0), taken=1600, before=100).share
    0.5
    """
    share = (taken - before - split.holding.fixed) / max(split.peak, 1) - 1
    return replace(split.holding, share=max(share, split.holding.share))


def _flops(prediction: Prediction) -> float:
    return sum(prediction.flops.values())


def _in_mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e6:.3f} MB"
