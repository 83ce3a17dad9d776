"""Verdicts: what a run's figures mean, in one sentence each, with the figure, the layer and what to do.

A ``Judge`` reads a run's records one by one and says each kind of thing once. It is a pure function of the records:
fed from ``metrics.jsonl`` it comes to the same words. The signs, with their thresholds, are in ``signs_in_flow.py``
and ``signs_in_losses.py``; the experiments that justify the thresholds are in docs/health.md.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from steepest.health import signs_in_flow as flow
from steepest.health import signs_in_losses as losses
from steepest.health.history import Habits, History, Record, Verdict

Sign = Callable[[History], Verdict | None]
When = Literal["step", "flow", "evaluation"]

# What each kind is looked for in, and by which signs.
KINDS: dict[str, list[tuple[When, Sign]]] = {
    "vanishing gradient": [("flow", flow.vanishing)],
    "exploding gradient": [("flow", flow.exploding)],
    "dead layer": [("flow", flow.dead_layer)],
    "dead units": [("flow", flow.dead_units)],
    "rate too high": [("flow", flow.rate_too_high), ("step", losses.divergence)],
    "rate too low": [("flow", flow.rate_too_low)],
    "clipping on every step": [("step", losses.clipping)],
    "attention logits growing": [("flow", flow.attention_logits)],
    "embeddings collapsing": [("flow", flow.collapse)],
    "over-fitting": [("evaluation", losses.over_fitting)],
    "loss spike": [("step", losses.spike)],
    "non-finite steps": [("step", losses.not_finite)],
}
AT_MOST = {"loss spike": 5}  # each is an event of its own; the other kinds are said once


class Judge:
    """Reads records in order, and gives the verdicts that each one leads to.

    Attributes:
        verdicts: all given so far, each kind once.
    """

    def __init__(self, habits: Habits) -> None:
        self.history = History(habits)
        self.verdicts: list[Verdict] = []

    def see(self, record: Record) -> list[Verdict]:
        """Take in one line of ``metrics.jsonl``; returns what it newly shows."""
        what = self.history.add(record)
        new = []
        for kind, signs in KINDS.items():
            if sum(verdict.kind == kind for verdict in self.verdicts) >= AT_MOST.get(kind, 1):
                continue
            for when, sign in signs:
                if when != what or (what == "flow" and sign is not flow.collapse and not self._has_blocks()):
                    continue
                if (found := sign(self.history)) is not None:
                    new.append(found)
                    break
        self.verdicts += new
        return new

    def _has_blocks(self) -> bool:
        """Whether the last flow passed through any; of a bag of tokens only the embedding can be judged."""
        return len(self.history.flows[-1][2]["stream"]["gradient"]) > 1


def diagnose(records: Iterable[Record], habits: Habits) -> list[Verdict]:
    """All verdicts on a run, from its records."""
    judge = Judge(habits)
    for record in records:
        judge.see(record)
    return judge.verdicts
