"""The hook that watches a run's health: a probe every K steps, a line in the metrics, verdicts as events.

Off (``health.every = 0``) there are no probes, and the verdicts that need none are still given. On, each probe is a
backward pass over a few sequences of the step's own batch, after the step and apart from it, so that losses and
weights are those of a run without probes, and a resumed run's probes are those of a run that never stopped.
"""

from collections.abc import Callable, Iterable
from typing import Any

from steepest.data.pair_batches import PairBatch
from steepest.health import Habits, Judge, Verdict, WeightSample, gradient_flow
from steepest.train.evaluate import eagerly
from steepest.train.loop import Record
from steepest.train.run import RunConfig, resolve_autocast, sequences_per_step
from steepest.train.state import TrainState

LEAST_PAIRS = (
    8  # of a probe: the contrast of one pair alone, or of two texts of different classes, has no gradient
)

Event = dict[str, Any]


class HealthWatch:
    """Probes and judges a run.

    Args:
        log: takes a line for ``metrics.jsonl``.
        event: takes an event's name and fields.
        micro_batch: rows whose activations may be held at once, asked at every probe.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        log: Callable[[Record], None],
        event: Callable[..., None],
        micro_batch: Callable[[], int],
    ) -> None:
        self.config, self._log, self._event, self._micro_batch = config, log, event, micro_batch
        self.judge = Judge(habits_of(config))
        self.every = config.health.steps_between(sequences_per_step(config))
        self._sample: WeightSample | None = None
        self._told: set[tuple[str, int]] = set()

    def begin(self, state: TrainState, records: Iterable[Record] = (), events: Iterable[Event] = ()) -> None:
        """Remember what an interrupted run has written, so that nothing is said twice."""
        for record in records:
            self.judge.see(record)
        for event in events:
            if event["event"] == "rewound":
                self._told.clear()
            elif event["event"] == "verdict":
                self._told.add((event["kind"], event["step"]))
        self._keep_weights(state)

    def __call__(self, state: TrainState, record: Record) -> None:
        """After every step: judge it, probe if it is time, and get ready for a probe after the next."""
        self.see(record)
        if state.optimizers.in_backward:  # gradients are not kept, and a probe would hold them all
            return
        if self.due(state.step):
            moved = self._sample.moved() if self._sample is not None and record["verdict"] == "ok" else None
            line = {
                "step": state.step,
                "tokens": state.tokens,
                "seconds": record["seconds"],
                "gradient_flow": self._probe(state, moved),
            }
            self._log(line)
            self.see(line)
        self._keep_weights(state)

    def see(self, record: Record) -> None:
        """Judge a line of the metrics."""
        for verdict in self.judge.see(record):
            if (verdict.kind, verdict.step) not in self._told:
                self._event("verdict", **verdict.record())

    def due(self, step: int) -> bool:
        """Whether the flow is probed after this step: the first, and every K-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    @property
    def verdicts(self) -> list[Verdict]:
        """All that was said so far."""
        return self.judge.verdicts

    def _keep_weights(self, state: TrainState) -> None:
        self._sample = WeightSample(state.objective) if self.due(state.step + 1) else None

    def _probe(self, state: TrainState, moved: dict[str, float] | None) -> dict[str, Any]:
        device = next(state.objective.parameters()).device
        rows = min(self.config.health.rows, self._micro_batch())
        batch = state.batches.at(state.step - 1)
        if isinstance(batch, PairBatch):  # one pair alone has no gradient
            rows = max(rows, LEAST_PAIRS * batch.width)
        batch = batch.split(rows)[0].to(device)
        with eagerly():
            return gradient_flow(
                state.objective, batch, moved=moved, autocast=resolve_autocast(self.config, device)
            )


def habits_of(config: RunConfig) -> Habits:
    """What the verdicts need to know of a run's settings."""
    optim = config.optim
    return Habits(
        lr=optim.lr or 0.0, clip=optim.clip, weight_decay=optim.weight_decay, optimizer=optim.optimizer
    )
