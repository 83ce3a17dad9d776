"""Configuration: frozen pydantic models, TOML on disk, ``a.b=c`` overrides, errors that name the key.

Knows no room. Every room owns one ``RoomConfig`` with its defaults; ``train/run.py`` composes them.
Units on the command line: durations ("90s", "10m", "1h30m"), counts ("1.5M", "20k"), bytes ("2GB").
"""

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from steepest.errors import ConfigError

Config = TypeVar("Config", bound="RoomConfig")


class RoomConfig(BaseModel):
    """Base of every room's configuration: frozen, unknown keys refused.

    >>> class Example(RoomConfig):
    ...     lr: float = 1e-3
    >>> build(Example, {"lt": 3})
    Traceback (most recent call last):
    ...
    steepest.errors.ConfigError: config: unknown key "lt"; did you mean "lr"?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some fields changed."""
        return build(type(self), {**self.model_dump(exclude_unset=True), **changes})


def build(kind: type[Config], values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate ``values`` into a config, or raise a ``ConfigError`` that names key, value and remedy."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(kind, error)}") from None


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain values, to be given to ``build``."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def dump_toml(config: RoomConfig, header: Mapping[str, Any] | None = None) -> str:
    """Write a config as TOML; fields that are ``None`` are left out, so that their default applies.

    >>> class Example(RoomConfig):
    ...     lr: float = 1e-3
    ...     name: str | None = None
    >>> print(dump_toml(Example(), header={"format": 1}))
    format = 1
    lr = 0.001
    <BLANKLINE>
    """
    lines = [f"{key} = {_toml_value(value)}" for key, value in (header or {}).items()]
    lines += _toml_table(config.model_dump(mode="json"), prefix="")
    return "\n".join(lines) + "\n"


def override(values: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Apply ``"table.key=value"`` strings; a value is read as TOML, and as plain text where that fails.

    >>> override({"optim": {"lr": 1}}, ["optim.lr=0.01", "optim.optimizer=sgd"])
    {'optim': {'lr': 0.01, 'optimizer': 'sgd'}}
    """
    result = copy.deepcopy(dict(values))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'--set expects "key=value", for example "optim.lr=1e-3"; got "{change}"')
        *path, last = key.strip().split(".")
        table = result
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f'--set {change}: "{part}" is a value, not a table')
        table[last] = _parse_value(text.strip())
    return result


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> float:
    """Seconds in a duration such as "90s", "10m", "1h30m" (a bare number is refused: its unit is not said).

    >>> parse_duration("1h30m")
    5400.0
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise ConfigError(f'a duration is written like "90s", "10m" or "1h30m"; got "{text}"')
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def parse_count(text: str) -> int:
    """A count such as "1500", "20k", "1.5M" or "2B".

    >>> parse_count("1.5M")
    1500000
    """
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbgt]?)", text.strip().lower().replace(",", "").replace("_", "")
    )
    if match is None:
        raise ConfigError(f'a count is written like "1500", "20k" or "1.5M"; got "{text}"')
    return round(float(match[1]) * _COUNT_UNITS[match[2]])


_BYTE_UNITS: dict[str, int] = {"B": 1} | {
    f"{prefix}{binary}B": base**power
    for binary, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kMGT", start=1)
}


def parse_bytes(text: str) -> int:
    """Bytes in a size such as "2GB" (10^9) or "2GiB" (2^30); the B may be left out, and case does not matter.

    >>> parse_bytes("2GiB"), parse_bytes("1.5 g")
    (2147483648, 1500000000)
    >>> parse_bytes("2GV")
    Traceback (most recent call last):
    ...
    steepest.errors.ConfigError: "2GV" is in no unit of memory; did you mean "2GB"? A size is written like ...
    """
    match = re.fullmatch(
        r"([+-]?\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip().replace(",", "").replace("_", "")
    )
    if match is None:
        raise ConfigError(f'a size is written like "512MB", "2GB" or "2GiB"; got "{text}"')
    amount, unit = match.groups()
    units = {name.lower(): size for name, size in _BYTE_UNITS.items()}
    known = units.get(unit.lower()) or units.get(f"{unit.lower()}b")
    if known is None:
        meant = difflib.get_close_matches(unit.lower(), units, n=1, cutoff=0.0)[0]
        name = next(name for name in _BYTE_UNITS if name.lower() == meant)
        raise ConfigError(
            f'"{text}" is in no unit of memory; did you mean "{amount}{name}"? A size is written like "512MB", '
            f'"2GB" or "2GiB"'
        )
    if float(amount) <= 0:
        raise ConfigError(f'a size must be more than 0 bytes; got "{text}"')
    return round(float(amount) * known)


def nearest(name: str, known: Iterable[str]) -> str:
    """``'; did you mean "x"?'`` for the closest known name, or an empty string.

    >>> nearest("wieght_decay", ["lr", "weight_decay"])
    '; did you mean "weight_decay"?'
    """
    return _nearest(name, known)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else ""


def _explain(kind: type[RoomConfig], error: ValidationError) -> str:
    """The first problem of a pydantic error, in one line; says how many more there are."""
    problems = error.errors()
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place, fields = _place(kind, [str(part) for part in first["loc"]])
    key = ".".join(place)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f'unknown key "{key}"{_nearest(place[-1], fields)}{more}'
    if first["type"] == "missing":
        return f'"{key}" is missing{more}'
    if first["type"] == "union_tag_invalid":
        tag, known = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "")
        return f'"{key}" has no kind "{tag}"{_nearest(tag, known.split(", ")) or ";"} It knows {known}{more}'
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{message}{more}"
    return f'"{key}": {message[0].lower() + message[1:]}; got {first["input"]!r}{more}'


def _place(kind: type[BaseModel], place: list[str]) -> tuple[list[str], list[str]]:
    """A place without the tags of unions in it, and the fields that are known there."""
    told: list[str] = []
    members: list[type[BaseModel]] = [kind]
    for part in place:
        if len(members) > 1:  # a union: this part is the tag of one of them
            members = [one for one in members if one.model_fields["kind"].default == part]
            continue
        told.append(part)
        field = members[0].model_fields.get(part) if members else None
        if field is not None:
            members = _models(field.annotation)
    return told, list(members[0].model_fields) if len(members) == 1 else []


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among the types that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text in ("none", "null") else text


def _toml_table(values: Mapping[str, Any], prefix: str) -> list[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{key}]", *_toml_table(value, f"{prefix}{key}.")]
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for surrogate pairs (so none are made) and DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
