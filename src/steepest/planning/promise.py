"""The promise: a ladder within a share of the time, the law fitted to it, and what other budgets would reach.

    seconds          LADDER_SHARE of the whole time, less what measuring took beyond its own share
    learning rate    a few multiples of the rule's on the smallest rung, if the ladder can afford them
    rungs            designed for the rule's size (``rungs``), run (``ladder``), judged and fitted (``predict``)

Where no ladder can be had, the reason is said in one line, and the rule decides.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steepest.data import Corpus
from steepest.data.examples import Examples
from steepest.model import TransformerConfig
from steepest.model.size import n_matrix_parameters
from steepest.optim import cooldown_share
from steepest.planning.climb import PART, Finished, rung_config
from steepest.planning.crew import most_workers, wall_clock
from steepest.planning.ladder import Ladder
from steepest.planning.ledger import Ledger
from steepest.planning.measure import Pace, machine, rung_pace
from steepest.planning.menu import Menu
from steepest.planning.predict import Outlook, look_out, steepening
from steepest.planning.rungs import WIDTHS, Rung, design, rounded_tokens
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, resolve_device

LADDER_SHARE = 0.105  # of the whole time
PLANNING_SHARE = 0.12  # of the whole time, that measuring and ladder may take together
LEAST_TIME = 240.0  # seconds, below which neither rungs nor the run's own curve tell anything
RATE_SHARE = 0.15  # of the ladder's seconds, that the learning-rate check may take
RATES = (0.5, 2.0)  # times the rule's rate, besides the rule's own
RATE_GAIN = 0.015  # of the loss, below which the rule's rate is kept: seeds of small rungs differ by 1%
WORTH = 1.1  # times as much that trunks side by side must train as one after the other
EVALUATED = 0.35  # cost of a token evaluated, over one trained on
WHOLE_SHARE = 0.1  # of the ladder's seconds, that evaluating on the whole held-out text may take
BUILDING = 0.1  # seconds, of a rung's parts
LEAST_RUNG_TOKENS = 262_144  # shorter ones end before their knee, and two lengths of a size cannot tell
ENOUGH_TOKENS = 1.4 * LEAST_RUNG_TOKENS  # of a rung: it is not made shorter for the sake of another layer
SHALLOWEST = 2 / 3  # of the run's depth, that its rungs have at least
LENGTHS = (2.0, 1.4, 1.0)  # times the shortest rung allowed, that all have if the seconds buy it
REPEATED = 4  # times that a rung may read its text: dropout begins there, which rungs do not have
LONGER = (4, 2)  # times the tokens of the longest rung before the knee, that others have at least


@dataclass(frozen=True)
class Promise:
    """What was learnt before training.

    Attributes:
        outlook: what the ladder says; ``None`` without one.
        multiplier: of the rule's learning rate.
        reason: why nothing is predicted; empty if something is.
        record: of the ladder, for plan.json.
    """

    outlook: Outlook | None = None
    multiplier: float = 1.0
    reason: str = ""
    record: dict[str, Any] | None = None


def promise(
    given: RunConfig,
    fixed: dict[str, Any],
    examples: Examples,
    kind: Kind,
    menu: Menu,
    pace: Pace,
    cache: Path,
    *,
    seconds: float,
    listen: Listener,
) -> Promise:
    """Climb a ladder for the rule's size and fit the law to it.

    Args:
        given, fixed: what the user set, and what data and user fix of the trunk.
        cache: where finished rungs and the user's own record of predictions are kept.
        seconds: that it may take.
    """
    assert isinstance(examples, Corpus)  # of a kind that has ladders
    if not examples.held_out_tokens:
        return Promise(reason="nothing is held out, so no loss can be predicted: set data.validation above 0")
    if REPEATED * examples.train_tokens < LEAST_RUNG_TOKENS:
        enough = LEAST_RUNG_TOKENS // REPEATED
        return Promise(
            reason=f"{examples.train_tokens:,} tokens of text are too few for small runs; {enough:,} would do"
        )
    n, tokens = menu.sizes[menu.rule], menu.tokens[menu.rule]
    climbing = _Climbing(
        Ladder(given, fixed, examples, machine(resolve_device(given.train.device)), cache), kind, pace, seconds, listen
    )  # fmt: skip
    sizes: list[tuple[tuple[int, int], int]] = []

    def designed(
        within: float, multiplier: float = 1.0, least: int = LEAST_RUNG_TOKENS, alone: bool = False
    ) -> list[Rung]:
        """For so many seconds; finished rungs of the same learning rate are free."""
        have = {
            replace(rung, multiplier=1.0) for rung in climbing.finished() if rung.multiplier == multiplier
        }
        return design(
            sizes, n=n, tokens=tokens, seconds=within, cost=climbing.wall_clock,
            least_tokens=least, most_tokens=REPEATED * examples.train_tokens, have=have, alone=alone,
        )  # fmt: skip

    def longest(multiplier: float = 1.0, steep: int = 0, least: float = 0.0) -> list[Rung]:
        """Few long rungs rather than many short ones: those that end before their knee, as some of ``steep`` tokens, tell nothing."""
        lengths = (
            [times * steep for times in LONGER] if steep else [times * LEAST_RUNG_TOKENS for times in LENGTHS]
        )
        allowed = [round(tokens) for tokens in lengths if rounded_tokens(tokens) >= least]
        ways = itertools.product((False, True), allowed)
        designs = (designed(climbing.left, multiplier, tokens, alone) for alone, tokens in ways)
        return next(filter(None, designs), [])

    if seconds < 1:
        return Promise(
            reason="measuring took the seconds of the ladder, so busy is this machine; give more time"
        )
    deepest, rungs = menu.models[menu.rule].depth, list[Rung]()
    shallowest = math.ceil(SHALLOWEST * deepest)
    climbing.choose_workers(_shapes(given, fixed, shallowest)[:1], pace)
    for depth in range(shallowest, deepest + 1):
        before = sizes, climbing.pace
        shapes = [model for model in _shapes(given, fixed, depth) if n_matrix_parameters(model) <= n]
        sizes = [((model.depth, model.width), n_matrix_parameters(model)) for model in shapes]
        climbing.pace = rung_pace(given, shapes, pace, workers=climbing.workers)
        deeper = longest()
        if not deeper or (rungs and _shortest(deeper) < ENOUGH_TOKENS <= _shortest(rungs)):
            if rungs:  # those of one layer less
                sizes, climbing.pace = before
            break
        rungs = deeper
    if not rungs:
        return Promise(
            reason=f"{seconds:.0f}s buy no ladder of small runs here; {_enough(partial(designed, alone=True), seconds)}"
        )
    listen(
        "ladder", {"rungs": rungs, "seconds": seconds, "reused": len(set(climbing.finished()) & set(rungs))}
    )
    # By compute and not by the clock, so that it is the same the next time.
    first = min(rungs, key=lambda rung: rung.n * rung.tokens)
    multiplier = _check_rate(climbing, first) if given.optim.lr is None else 1.0
    while True:
        # After each it is known better what rungs take, and how long they must be.
        steep = climbing.steepening(first, multiplier)
        if steep or climbing.price(rungs, multiplier) > climbing.left:
            rungs = longest(multiplier, steep, least=min(rung.tokens for rung in rungs))
        wanted = [replace(rung, multiplier=multiplier) for rung in rungs]
        top = max(wanted, key=lambda rung: rung.n * rung.tokens, default=first)
        affordable = WHOLE_SHARE * seconds / (EVALUATED * climbing.pace.seconds_per_token(top.n))
        if not climbing.run_next(wanted, top=top, whole=int(min(examples.held_out_tokens, affordable))):
            break
    taken = time.monotonic() - climbing.began
    outlook = look_out(
        list(climbing.finished().values()), n=n, tokens=tokens, depth=first.depth,
        multiplier=Ledger(cache).multiplier, lr_multiplier=multiplier,
    )  # fmt: skip
    record = {
        "folder": str(climbing.ladder.path), "seconds": round(taken, 2), "ran": len(climbing.ran),
        "lr_multiplier": multiplier, "slowness": round(climbing.slowness, 3), "workers": climbing.workers, "verdict": outlook.verdict.reason,
        "points": [_point(one, outlook, index) for index, one in enumerate(outlook.rungs)],
    }  # fmt: skip
    reason = "" if outlook.law is not None else outlook.verdict.reason
    return Promise(outlook, multiplier, reason, record)


class _Climbing:
    """One ladder's clock, and the rungs that were run in it."""

    def __init__(self, ladder: Ladder, kind: Kind, pace: Pace, seconds: float, listen: Listener) -> None:
        self.ladder, self.kind, self.pace, self.seconds, self.listen = ladder, kind, pace, seconds, listen
        self.began, self.workers = time.monotonic(), 1
        self.ran: list[Finished] = []

    def choose_workers(self, smallest: list[TransformerConfig], pace: Pace) -> None:
        """Whether trunks train more one after the other or side by side, as steps of the smallest tell."""
        given, workers = self.ladder.given, most_workers(self.ladder.given)
        if workers > 1:
            (alone,), (beside,) = (
                rung_pace(given, smallest, pace, workers=some).measured.values() for some in (1, workers)
            )
            self.workers = workers if workers * alone > WORTH * beside else 1

    @property
    def left(self) -> float:
        """Seconds left of the ladder's."""
        return max(self.seconds - (time.monotonic() - self.began), 0.0)

    @property
    def slowness(self) -> float:
        """How many times as long as measured the steps of the largest rung so far took."""
        largest = max(self.ran, key=lambda one: one.rung.n * one.tokens, default=None)
        if largest is None:
            return 1.0
        return min(max(largest.seconds_per_token / self.pace.seconds_per_token(largest.rung.n), 0.5), 4.0)

    def finished(self) -> dict[Rung, Finished]:
        """All rungs there are."""
        return {one.rung: one for one in self.ladder.finished()}

    def cost(self, branches: Sequence[Rung]) -> float:
        """Seconds that the branches of one trunk are expected to take: the longest whole, of the others what is not the trunk."""
        evaluated = EVALUATED * min(PART, self.ladder.corpus.held_out_tokens)
        lengths = sorted(rung.tokens for rung in branches)
        trained = lengths[-1] + cooldown_share(self.ladder.given.optim) * sum(lengths[:-1])
        seconds = self.slowness * self.pace.seconds_per_token(branches[0].n)
        return (trained + len(lengths) * evaluated) * seconds + BUILDING * len(lengths)

    def wall_clock(self, rungs: Iterable[Rung]) -> float:
        """Seconds that some rungs take, side by side where that is worth it."""
        return wall_clock(map(self.cost, self.ladder.trunks(rungs)), self.workers)

    def price(self, rungs: list[Rung], multiplier: float) -> float:
        """Seconds that those of some rungs take that are not finished."""
        wanted = (replace(rung, multiplier=multiplier) for rung in rungs)
        finished = self.finished()
        return self.wall_clock(rung for rung in wanted if rung not in finished)

    def steepening(self, like: Rung, multiplier: float) -> int:
        """Tokens of the longest rung as deep as another that ended before its knee; 0 if none did.

        Shorter ones tell nothing either.
        """
        return steepening([
            one for rung, one in self.finished().items()
            if (rung.depth, rung.multiplier) == (like.depth, multiplier)
        ])  # fmt: skip

    def run_next(self, rungs: list[Rung], *, top: Rung, whole: int) -> bool:
        """Run the cheapest trunk of what is not finished, or all side by side; whether any rung came to its end."""
        finished = self.finished()
        trunks = self.ladder.trunks(rung for rung in rungs if rung not in finished)
        before = len(self.ran)
        some = trunks if self.workers > 1 else sorted(trunks, key=self.cost)[:1]
        self.run([rung for branches in some for rung in branches], top=top, whole=whole)
        return len(self.ran) > before

    def run(self, rungs: list[Rung], *, top: Rung | None = None, whole: int = 0) -> None:
        """Those of some rungs that are not finished and that the seconds left buy."""
        price = self.cost  # as known now; the ladder itself corrects it on the way
        self.ran += self.ladder.climb(
            rungs, self.kind, seconds=self.left, cost=price, workers=self.workers, whole=whole, top=top,
            listen=self.listen,
        )  # fmt: skip


def _check_rate(climbing: _Climbing, rung: Rung) -> float:
    """A multiple of the rule's learning rate: the optimum of a parabola through a few, where that gains enough.

    Rates are tried on a small rung; the rule carries the multiple to other widths and batches.
    """
    tried = [replace(rung, multiplier=rate) for rate in (1.0, *RATES)]
    have = climbing.finished()
    if climbing.wall_clock(one for one in tried if one not in have) > RATE_SHARE * climbing.seconds:
        return 1.0
    climbing.run(tried)
    have = climbing.finished()
    return best_rate({
        math.log2(one.multiplier): have[one].loss for one in tried if one in have and math.isfinite(have[one].loss)
    })  # fmt: skip


def best_rate(losses: dict[float, float]) -> float:
    """The multiple to take, from losses by log2 of the multiples tried: on a grid of square roots of two.

    >>> best_rate({-1.0: 2.02, 0.0: 2.00, 1.0: 2.03}), best_rate({-1.0: 1.95, 0.0: 2.00, 1.0: 2.10}), best_rate({0.0: 2.0})
    (1.0, 0.5, 1.0)
    """
    if len(losses) < 3 or 0.0 not in losses:
        return 1.0
    at = np.array(sorted(losses))
    bend, slope, _ = np.polyfit(at, [losses[place] for place in at.tolist()], 2)
    best = -slope / (2 * bend) if bend > 0 else min(losses, key=lambda place: losses[place])
    best = float(np.clip(best, at[0], at[-1]))
    gain = -(bend * best**2 + slope * best)
    if gain < RATE_GAIN * losses[0.0]:
        return 1.0
    return float(2 ** (round(2 * best) / 2))


def _shapes(given: RunConfig, fixed: dict[str, Any], depth: int) -> list[TransformerConfig]:
    """What rungs of a run so deep may be, from small to large."""
    rungs = (Rung(depth, width, n=0, tokens=LEAST_RUNG_TOKENS) for width in WIDTHS)
    return [rung_config(given, rung, fixed).model for rung in rungs]


def _shortest(rungs: Iterable[Rung]) -> int:
    """Tokens of the shortest of some rungs, which are rounded."""
    return min(rung.tokens for rung in rungs)


def _enough(designed: Callable[[float], list[Rung]], seconds: float) -> str:
    """How many times the time would buy a ladder (of a larger run, but of the same ratio)."""
    for times in (1.5, 2, 3, 4, 6, 8, 12, 16):
        if designed(times * seconds):
            return f"about {times:g} times the time would"
    return "not even sixteen times the time would"


def _point(one: Finished, outlook: Outlook, index: int) -> dict[str, Any]:
    judged = outlook.verdict.rungs[index]
    return {
        "depth": one.rung.depth, "width": one.rung.width, "n": one.rung.n, "tokens": one.tokens, "unique": one.unique,
        "seed": one.rung.seed, "batch_tokens": one.batch_tokens, "lr": one.lr, "dropout": one.dropout,
        "loss": one.loss, "bits_per_byte": one.part["bits_per_byte"], "seconds": one.seconds,
        "passed": judged.passed, "why": judged.reason,
    }  # fmt: skip
