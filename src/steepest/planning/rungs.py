r"""Rungs: small runs that stand for a large one, and which of them a number of seconds buys.

A law is only right near the ratio of tokens to parameters at which it was measured, so the rungs have the run's own:

    D_i = ratio * N_i,      ratio = D / N of the run,       N_i a few sizes below the run's

with, besides, shorter runs of the smallest sizes (is the loss a power law yet?), one far off the ratio (which tells
the exponents of N and D apart) and one of another seed (how much is luck). Where the run will read its text several
times, a rung reads a part of it as many times, so that repeats and dropout are the same at every size:

    U_i = D_i / epochs

Tokens are rounded to powers of the square root of two and epochs to a few numbers, so that a ladder made for one budget
serves another.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FINENESS = 2.0  # rungs of tokens in an octave
LEAST_STEPS = 100  # of a rung
SHARES = (1.0, 0.71, 0.5, 0.35)  # of the run's ratio, the largest that leaves three sizes, or else two
TOP_SHARE = 0.45  # of the ladder's seconds, that the largest rung may take
SPACING = 1.25  # least factor from one size of a ladder to the next
LARGEST = 0.75  # share of the run's parameters that a rung may have
EPOCHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32)

# Depth and width of what a rung may be.
SMALL = (
    (1, 32), (1, 64), (2, 64), (1, 128), (2, 128), (3, 128), (4, 128), (5, 128), (4, 192), (6, 192), (6, 256), (8, 256),
    (8, 384), (8, 512), (12, 768),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Rung:
    """One small run.

    Attributes:
        depth, width: its shape.
        n: matrix parameters, the head among them.
        tokens: trained on, repeats included.
        epochs: how often it reads its part of the text; 1: as often as it comes.
        seed: of weights and order.
        multiplier: of the rule's learning rate.
    """

    depth: int
    width: int
    n: int
    tokens: int
    epochs: int = 1
    seed: int = 0
    multiplier: float = 1.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def family(self) -> tuple[int, int, int, int, float]:
        """Rungs that differ in tokens alone."""
        return self.depth, self.width, self.epochs, self.seed, self.multiplier


def rounded_tokens(tokens: float) -> int:
    """The nearest number of tokens on the grid that all ladders share.

    >>> rounded_tokens(300_000), rounded_tokens(330_000)
    (262144, 370728)
    """
    return round(2 ** (round(FINENESS * math.log2(tokens)) / FINENESS))


def rounded_epochs(tokens: float, unique: float) -> int:
    """How often rungs read their part of the text, for a run that reads its own so often; 1 below one and a half.

    >>> [rounded_epochs(epochs, 1.0) for epochs in (0.2, 1.4, 1.6, 9.2, 100)]
    [1, 1, 2, 10, 32]
    """
    epochs = tokens / max(unique, 1)
    return 1 if epochs < 1.5 else min(EPOCHS, key=lambda one: abs(math.log(one / epochs)))


def design(
    sizes: Sequence[tuple[tuple[int, int], int]],
    *,
    n: int,
    tokens: float,
    epochs: int,
    seconds: float,
    cost: Callable[[Rung], float],
    least_tokens: int,
    have: Iterable[Rung] = (),
) -> list[Rung]:
    """Rungs for a run of ``n`` parameters and some tokens, cheapest first; empty if the seconds buy no ladder.

    Args:
        sizes: shapes and their parameters, from small to large.
        n, tokens, epochs: of the run.
        seconds: that the ladder may take.
        cost: seconds of a rung.
        least_tokens: of a rung.
        have: rungs that are finished and cost nothing.
    """
    done = set(have)
    smaller = [(shape, size) for shape, size in sizes if size <= LARGEST * n] or [sizes[0]]

    def price(rung: Rung) -> float:
        return 0.0 if rung in done else cost(rung)

    def rung(shape: tuple[int, int], size: int, ratio: float, seed: int = 0) -> Rung:
        return Rung(*shape, size, rounded_tokens(max(ratio * size, least_tokens)), epochs, seed)

    for least, share in itertools.product((3, 2), SHARES):
        ratio = share * tokens / n
        spine = _spine([rung(shape, size, ratio) for shape, size in smaller], seconds, price)
        if len(spine) < least:
            continue
        chosen = list(spine)
        first, second, top = spine[0], spine[min(1, len(spine) - 1)], spine[-1]
        extras = [
            rung((first.depth, first.width), first.n, ratio / 2),
            rung((second.depth, second.width), second.n, ratio / 2),
            rung((first.depth, first.width), first.n, 2 * ratio),
            rung((first.depth, first.width), first.n, ratio, seed=1),
            rung((top.depth, top.width), top.n, ratio / 2),
            rung((first.depth, first.width), first.n, ratio / 4),
            rung((first.depth, first.width), first.n, 4 * ratio),
        ]
        for extra in extras:
            spent = sum(map(price, chosen))
            if extra not in chosen and spent + price(extra) <= seconds:
                chosen.append(extra)
        if len(chosen) >= 4:
            return sorted(chosen, key=cost)
    return []


def _spine(rungs: list[Rung], seconds: float, price: Callable[[Rung], float]) -> list[Rung]:
    """Up to four sizes at the run's own ratio: the largest that can be paid, then spread evenly down to the least."""
    payable = [rung for rung in rungs if price(rung) <= TOP_SHARE * seconds]
    while payable:
        spine = [payable[-1]]
        for below in (2 / 3, 1 / 3, 0.0):
            wanted = payable[0].n ** (1 - below) * payable[-1].n ** below
            lower = [rung for rung in payable if rung.n * SPACING <= spine[-1].n]
            if not lower:
                break
            spine.append(min(lower, key=lambda rung: abs(math.log(rung.n / wanted))))
        if sum(map(price, spine)) <= 0.85 * seconds:
            return sorted(spine, key=lambda rung: rung.n)
        payable.pop()
    return []
