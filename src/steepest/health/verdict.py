"""Verdicts: what a run's figures mean, in one sentence each, with the figure, the layer and what to do.

A ``Judge`` reads a run's records one by one and says each kind of thing once. It is a pure function of the records:
fed from ``metrics.jsonl`` it comes to the same words. The signs, with their thresholds, are in ``signs_in_flow.py``
and ``signs_in_losses.py``; the experiments that justify the thresholds are in docs/health.md.
"""

from collections.abc import Callable, Iterable

from steepest.health.history import Habits, History, Record, Verdict

Sign = Callable[[History], Verdict | None]
KINDS: dict[str, tuple[str, Sign]] = {}


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
        kind = self.history.add(record)
        known = {verdict.kind for verdict in self.verdicts}
        new = []
        for name, (when, sign) in KINDS.items():
            if when == kind and name not in known and (found := sign(self.history)) is not None:
                new.append(found)
        self.verdicts += new
        return new


def diagnose(records: Iterable[Record], habits: Habits) -> list[Verdict]:
    """All verdicts on a run, from its records."""
    judge = Judge(habits)
    for record in records:
        judge.see(record)
    return judge.verdicts
