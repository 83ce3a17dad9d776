"""What a caller says, as a ``RunConfig``: sources, one budget, memory, a config file, overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from steepest.api.trained_run import without_format
from steepest.config import build, load_toml, override, parse_count, parse_duration
from steepest.data.builtin import BUILTIN
from steepest.errors import ConfigError
from steepest.planning import limit_vocabulary
from steepest.train.run import RunConfig


@dataclass(frozen=True)
class Settings:
    """Budget and settings as they are given to ``train`` and ``plan``; see there."""

    time: str | float | None = None
    steps: int | None = None
    tokens: int | str | None = None
    epochs: float | None = None
    memory: int | str | None = None
    config: Mapping[str, Any] | Path | str | None = None
    overrides: tuple[str, ...] = ()

    def resolve(self, sources: Sequence[str | Path]) -> RunConfig:
        """The config that says the same; everything it leaves out is still to be chosen."""
        given = self.config
        values = load_toml(Path(given)) if isinstance(given, str | Path) else dict(given or {})
        values = without_format(values)  # a run.toml may be given as it is
        for room in ("data", "train"):
            if not isinstance(values.get(room, {}), Mapping):
                raise ConfigError(f"config: {room} is a table of settings; got {values[room]!r}")
        if sources:
            values["data"] = {**values.get("data", {}), "sources": absolute(sources)}
        budget = {
            "time": parse_duration(self.time) if isinstance(self.time, str) else self.time,
            "steps": self.steps,
            "tokens": parse_count(self.tokens) if isinstance(self.tokens, str) else self.tokens,
            "epochs": self.epochs,
        }
        if any(value is not None for value in budget.values()):
            others = {key: value for key, value in values.get("train", {}).items() if key not in budget}
            values["train"] = {**others, **{key: value for key, value in budget.items() if value is not None}}
        values["train"] = {
            **values.get("train", {}),
            **({} if self.memory is None else {"memory": self.memory}),
        }
        return limit_vocabulary(build(RunConfig, override(values, self.overrides)))

    def refuse_beside_a_plan(self) -> None:
        """A plan holds all of this; said twice it could not be kept."""
        given = [one.name for one in fields(self) if getattr(self, one.name) not in (None, ())]
        if given:
            raise ConfigError(
                f"a plan says budget and settings already; leave out {' and '.join(given)}, or make another plan"
            )


def absolute(sources: Sequence[str | Path]) -> list[str]:
    """Paths that still mean the same from another folder; names that are no paths stay."""
    return [_absolute(str(source)) for source in sources]


def _absolute(source: str) -> str:
    if source == "-" or source.startswith("hf:") or (source in BUILTIN and not Path(source).exists()):
        return source
    return str(Path(source).expanduser().absolute())
