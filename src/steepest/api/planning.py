"""Plan without training: what a budget would buy, and what loss it would reach."""

import json
import time as clock
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.api.settings import Settings
from steepest.api.trained_run import cache_folder, silent
from steepest.errors import ConfigError
from steepest.planning import Circumstances, Ledger, choose, plan_record
from steepest.planning.ledger import Record
from steepest.runs import write_atomically
from steepest.train.kinds import kind_of
from steepest.train.run import Listener, RunConfig

# Settings that are chosen by measuring the machine.
OF_THE_MACHINE = (
    "threads",
    "dtype",
    "compile",
    "micro_batch",
    "backward",
    "recompute_blocks",
    "step_in_backward",
)


@dataclass(frozen=True)
class Plan:
    """What a budget buys.

    Attributes:
        config: of the run, every choice resolved.
        record: what was measured, chosen and promised, as JSON.
    """

    config: RunConfig
    record: dict[str, Any]

    @property
    def prediction(self) -> dict[str, Any] | None:
        """Predicted bits per byte: ``value``, ``low`` and ``high`` (80 %), ``low95`` and ``high95``; or ``None``."""
        told: dict[str, Any] | None = self.record.get("prediction")
        return told

    @property
    def others(self) -> dict[str, dict[str, Any]]:
        """What other budgets would reach, by name: "2x time", "2x data", "2x memory", "10x machine"."""
        return dict(self.record.get("with", {}))

    def save(self, path: Path | str) -> None:
        """Write it, for ``train(plan=path)``."""
        write_atomically(Path(path), json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")


def plan(
    *sources: str | Path,
    time: str | float,
    memory: int | str | None = None,
    machine_factor: float = 1.0,
    cache: Path | str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    overrides: Iterable[str] = (),
    listen: Listener = silent,
    started: float | None = None,
) -> Plan:
    """Climb a ladder of small runs and say what a budget would buy; nothing else is trained.

    Args:
        sources, memory, config, overrides, listen, started: as for ``train``.
        time: wall clock of the run that is planned; its ladder takes about a tenth of that now.
        machine_factor: how many times as fast as this one the machine is that will train.

    Raises:
        SteepestError: for anything the caller can mend.
    """
    began = clock.monotonic() if started is None else started
    if not machine_factor > 0:
        raise ConfigError(f"a machine is more than 0 times as fast as this one; got {machine_factor:g}")
    place = cache_folder(cache)
    given = Settings(time=time, memory=memory, config=config, overrides=tuple(overrides)).resolve(sources)
    kind, given, examples = kind_of(given).prepare(given, place, listen)
    where = Circumstances(began, cache=place, ahead=True, machine_factor=machine_factor)
    resolved, record = choose(given, examples, kind, where, listen)
    if machine_factor != 1.0:  # the other machine chooses for itself, when the plan is carried out
        own = {name: getattr(given.train, name) for name in OF_THE_MACHINE}
        resolved = resolved.replace(train=resolved.train.replace(**own))
    return Plan(resolved, plan_record(resolved, record, examples))


def scores(cache: Path | str | None = None) -> tuple[list[dict[str, Any]], Record]:
    """Every past prediction beside what was reached, oldest first, and what they come to."""
    ledger = Ledger(cache_folder(cache))
    return ledger.scores(), ledger.record()
