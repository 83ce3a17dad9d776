r"""Rungs: small runs that stand for a large one, and which of them a number of seconds buys.

Rungs are as deep as the run and narrower, for what more tokens are worth grows with depth: rungs of one layer tell nothing
of four (measured, dev/LOG.md). A law is only right near the ratio of tokens to parameters at which it was measured, so they
have the run's own, or as much of it as the seconds buy:

    D_i = share * ratio * N_i,      ratio = D / N of the run,       N_i a few sizes below the run's

with, besides, a run of half or twice the length of each size (is the loss a power law yet?; of the smallest alone, where
the seconds buy no more), and one of another seed (how much is luck). Rungs read their text as it comes, also where the run
will read it several times: small parts read often are learnt by heart, which tells nothing of a run; what repeats are
worth is the law's to say.

Tokens are rounded to powers of the square root of two, so that a ladder made for one budget serves another.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from steepest.scaling.points import LEAST_POINTS

FINENESS = 2.0  # rungs of tokens in an octave
SHARES = (
    1.0,
    0.71,
    0.5,
    0.35,
    0.25,
    0.18,
    0.13,
)  # of the run's ratio, the largest that leaves three sizes, or else two
STEPS = (2.0, 2**0.5)  # from one length of a size to the other; the smallest size has the first, for the gate
SPACING = 1.25  # least factor from one size of a ladder to the next
LARGEST = 0.75  # share of the run's parameters that a rung may have

WIDTHS = (32, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024)  # that a rung may have, heads of 64 or 32


@dataclass(frozen=True, order=True)
class Rung:
    """One small run.

    Attributes:
        depth, width: its shape.
        n: matrix parameters, the head among them.
        tokens: trained on, repeats included.
        seed: of weights and order.
        multiplier: of the rule's learning rate.
    """

    depth: int
    width: int
    n: int
    tokens: int
    seed: int = 0
    multiplier: float = 1.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def family(self) -> tuple[int, int, int, float]:
        """Rungs that differ in tokens alone."""
        return self.depth, self.width, self.seed, self.multiplier


def rounded_tokens(tokens: float) -> int:
    """The nearest number of tokens on the grid that all ladders share.

    >>> rounded_tokens(300_000), rounded_tokens(330_000)
    (262144, 370728)
    """
    return round(2 ** (round(FINENESS * math.log2(tokens)) / FINENESS))


def design(
    sizes: Sequence[tuple[tuple[int, int], int]],
    *,
    n: int,
    tokens: float,
    seconds: float,
    cost: Callable[[Sequence[Rung]], float],
    least_tokens: int,
    most_tokens: float = math.inf,
    have: Iterable[Rung] = (),
    alone: bool = False,
) -> list[Rung]:
    """Rungs for a run of ``n`` parameters and some tokens, cheapest first; empty if the seconds buy no ladder.

    Args:
        sizes: shapes and their parameters, from small to large.
        n, tokens: of the run.
        seconds: that the ladder may take.
        cost: seconds that some rungs take, trained together.
        least_tokens, most_tokens: of a rung.
        have: rungs that are finished and cost nothing.
        alone: larger sizes than the smallest have one length; another seed of that makes up for it.
    """
    if not sizes:
        return []
    done = set(have)
    smaller = [(shape, size) for shape, size in sizes if size <= LARGEST * n] or [sizes[0]]

    def price(rungs: Sequence[Rung]) -> float:
        return cost([rung for rung in rungs if rung not in done])

    def rung(shape: tuple[int, int], size: int, ratio: float) -> Rung:
        return Rung(*shape, size, rounded_tokens(max(ratio * size, least_tokens)))

    def lengths(one: Rung, step: float) -> tuple[Rung, ...]:
        if one.n == smaller[0][1]:
            return one, _beside(one, least_tokens, STEPS[0])
        return (one,) if alone else (one, _beside(one, least_tokens, step))

    for least, step, share in itertools.product((3, 2), STEPS[:1] if alone else STEPS, SHARES):
        some = [lengths(rung(shape, size, share * tokens / n), step) for shape, size in smaller]
        short = [pair for pair in some if max(one.tokens for one in pair) <= most_tokens]
        if short[:1] != some[:1]:
            continue  # nothing would tell the gate how the loss falls
        spine = _spine(short, seconds, price)
        if len(spine) < least:
            continue
        chosen = [one for pair in spine for one in pair]
        first = spine[0][0]
        others = [
            replace(first, seed=1),
            longer(first, 2),
            *(longer(pair[0], 0.5) for pair in spine),
            longer(first, 0.25),
        ]
        for other in others:
            affordable = price([*chosen, other]) <= seconds
            if (
                other not in chosen
                and rounded_tokens(least_tokens) <= other.tokens <= most_tokens
                and affordable
            ):
                chosen.append(other)
        if len(chosen) < LEAST_POINTS:
            continue
        return sorted(chosen, key=lambda rung: cost([rung]))
    return []


def longer(rung: Rung, times: float) -> Rung:
    """The same so many times as long."""
    return replace(rung, tokens=rounded_tokens(times * rung.tokens))


def _beside(rung: Rung, least_tokens: float, step: float) -> Rung:
    """The other length of a rung's size: so many times shorter, or longer where that would be too short."""
    return longer(rung, 1 / step if rung.tokens >= step * least_tokens else step)


def _spine(
    sizes: list[tuple[Rung, ...]], seconds: float, price: Callable[[Sequence[Rung]], float]
) -> list[tuple[Rung, ...]]:
    """Up to four sizes, with their lengths: the largest that can be paid beside the least, then spread evenly down to that."""
    payable = [pair for pair in sizes[1:] if price([*pair, *sizes[0]]) <= seconds]
    while payable:
        spine, least = [payable[-1]], sizes[0][0].n
        for below in (2 / 3, 1 / 3, 0.0):
            wanted = least ** (1 - below) * payable[-1][0].n ** below
            lower = [pair for pair in [sizes[0], *payable] if pair[0].n * SPACING <= spine[-1][0].n]
            if not lower:
                break
            spine.append(min(lower, key=lambda pair: abs(math.log(pair[0].n / wanted))))
        if price([one for pair in spine for one in pair]) <= seconds:
            return spine[::-1]
        payable.pop()
    return []
