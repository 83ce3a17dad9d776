"""A run keeps to its memory: after the second step what the process took is compared with what was predicted.

By then the optimiser's state exists and a checkpoint's copies are made, so later steps take no more. If the limit
is passed, the batch is split anew once, with the share that the process really holds; both are events.
"""

import json
from collections.abc import Callable
from typing import Any

from steepest.config import dump_toml
from steepest.errors import ConfigError
from steepest.memory.choose import CUDA, KEPT, RETURNED, Holding, Split, refit
from steepest.memory.measure import context_bytes, peak, reset_peak
from steepest.objectives import Objective
from steepest.runs import FORMAT, RunFolder, write_atomically
from steepest.train.footprint import Subject
from steepest.train.loop import Record
from steepest.train.run import RunConfig, resolve_device, sequences_per_step
from steepest.train.split import fit, hold_as, unsplit
from steepest.train.state import TrainState

WATCHED = 2  # steps


class MemoryWatch:
    """A hook of the loop; ``micro_batch`` is the split that holds now.

    Args:
        subject: what the split is chosen for, if it must be chosen anew.
        event: called with an event's name and fields.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        objective: Objective,
        subject: Subject,
        event: Callable[..., None],
    ) -> None:
        self.config, self.folder, self.objective = config, folder, objective
        self.subject, self._event = subject, event
        self.device = resolve_device(config.train.device)
        self.micro_batch = config.train.micro_batch or sequences_per_step(config)
        self._plan: dict[str, Any] = _read(folder).get("memory", {})
        self._steps = 0

    def begin(self) -> None:
        """Hold memory as the plan assumes; measure from now on."""
        hold_as(self._plan.get("allocator", ""))
        reset_peak(self.device)

    def __call__(self, state: TrainState, record: Record) -> None:
        """After the second step of a session: compare, and split anew if the limit is passed."""
        self._steps += 1
        if self._steps != WATCHED or not self._plan:
            return
        taken, limit = self._taken(), self._plan["limit"]
        self._event("memory measured", step=state.step, predicted=self._plan.get("predicted"), measured=taken,
                    limit=limit)  # fmt: skip
        if self._plan["asked"] and taken > limit:
            self._split_anew(state, taken)

    def record(self) -> dict[str, Any]:
        """What was predicted and what was measured, for result.json."""
        if not self._plan:
            return {}
        return {
            "limit": self._plan["limit"],
            "predicted": self._plan.get("predicted"),
            "measured": self._taken(),
        }

    def _taken(self) -> int:
        """The most bytes the process has held."""
        return peak(self.device) + context_bytes(self.device)

    def _split_anew(self, state: TrainState, taken: int) -> None:
        plan, step = self._plan, state.step
        holding = refit(_split(plan), taken, plan["before"])
        try:
            config, fitted = fit(
                unsplit(self.config),
                preferred=self.micro_batch,
                subject=self.subject,
                holdings=[holding],
                before=plan["before"],
            )
        except ConfigError as error:
            self._event("memory over its limit", step=step, measured=taken, reason=str(error))
            return
        self.config, self.micro_batch = config, config.train.micro_batch or self.micro_batch
        self.objective.trunk.set_backward(config.train.backward, config.train.recompute_blocks)
        state.optimizers.in_backward = bool(config.train.step_in_backward)
        # A resumed run goes on with the same split.
        self._plan = {**fitted.record(), "split_anew_at": step}
        self.folder.write_json(self.folder.plan, {**_read(self.folder), "memory": self._plan})
        write_atomically(self.folder.config, dump_toml(config, header={"format": FORMAT}))
        reset_peak(self.device)
        self._event("memory split anew", step=step, measured=taken, predicted=self._plan["predicted"],
                    micro_batch=self.micro_batch, recompute_blocks=self._plan["recompute_blocks"])  # fmt: skip


def _split(plan: dict[str, Any]) -> Split:
    known: dict[str, Holding] = {holding.name: holding for holding in (KEPT, RETURNED, CUDA)}
    return Split(plan["micro_batch"], plan["recompute_blocks"], known[plan["allocator"]],
                 plan["predicted_live"], plan["predicted"], 0.0)  # fmt: skip


def _read(folder: RunFolder) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(folder.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan
