"""What a verdict is, and what it is made from: a run's records so far, in the order they were written.

Everything here is plain numbers from ``metrics.jsonl``, so that a resumed run (or a report) comes to the same
verdicts from the file alone.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Record = Mapping[str, Any]

WINDOW = 128  # steps that are looked back on
SETTLED = 0.95  # share of the peak rate at which warm-up counts as over


@dataclass(frozen=True)
class Verdict:
    """One finding, in words.

    Attributes:
        kind: which sickness, a key of ``health.verdict.KINDS``.
        step: at which it was recognised (for a spike: at which it happened).
        layer: where, such as "block 3 mlp"; ``None`` if it concerns the whole run.
        sentence: the figure, the layer and what to do, in one sentence.
        figure: the number that gave it away.
    """

    kind: str
    step: int
    layer: str | None
    sentence: str
    figure: float

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Habits:
    """What a run's settings say that its records do not."""

    lr: float  # peak
    clip: float = 1.0
    weight_decay: float = 0.0
    optimizer: str = "adamw"


@dataclass
class History:
    """A run so far.

    Attributes:
        steps: the last ``WINDOW`` step records.
        flows: the first and the last probe of the gradient flow, as (step, share of the peak rate, figures).
        evaluations: every evaluation, as (step, held-out loss, training loss since the one before).
        settled: the step at which warm-up was over.
    """

    habits: Habits
    steps: deque[Record] = field(default_factory=lambda: deque(maxlen=WINDOW))
    flows: list[tuple[int, float, Record]] = field(default_factory=list)
    evaluations: list[tuple[int, float, float | None]] = field(default_factory=list)
    settled: int | None = None
    _losses: tuple[float, int] = (0.0, 0)  # sum and count since the last evaluation

    def add(self, record: Record) -> str | None:
        """Take in a line of ``metrics.jsonl``; says what it was: "step", "flow", "evaluation" or nothing known."""
        if "gradient_flow" in record:
            self.flows[1:] = []
            self.flows.append((record["step"], self.factor, record["gradient_flow"]))
            return "flow"
        if "evaluation" in record:
            loss = record["evaluation"].get("loss")
            if loss is None:
                return None
            total, count = self._losses
            self.evaluations.append((record["step"], loss, total / count if count else None))
            self._losses = 0.0, 0
            return "evaluation"
        if "grad_norm" not in record:
            return None
        self.steps.append(record)
        if record["verdict"] == "ok":
            self._losses = self._losses[0] + record["loss"], self._losses[1] + 1
        if self.settled is None and self.factor >= SETTLED:
            self.settled = record["step"]
        return "step"

    @property
    def factor(self) -> float:
        """Share of the peak rate at the last step."""
        return float(self.steps[-1]["lr"]) / self.habits.lr if self.steps and self.habits.lr else 0.0
