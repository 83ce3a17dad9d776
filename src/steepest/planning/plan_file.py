"""A plan as a file: everything that was measured, chosen and promised, to be carried out later or elsewhere.

    {"kind": "plan", "format": 1, "config": ..., "fingerprint": {"data", "tokenizer", "machine"}, "prediction": ..., ...}

The fingerprints hold what the promise was made for. Data counts by its tokens, wherever they lie; the machine counts
unless the plan was made for one that is so many times as fast.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steepest.config import build
from steepest.data import Corpus
from steepest.data.examples import Examples
from steepest.errors import ConfigError, DataError
from steepest.planning.measure import machine
from steepest.tokenizer import Tokenizer
from steepest.train.run import RunConfig, resolve_device

FORMAT = 1
FIGURES = ("parameters", "tokens", "epochs")  # that every plan has
PROMISED = (
    "value",
    "low",
    "high",
    "low95",
    "high95",
    "multiplier",
    "tokens",
    "matrix_parameters",
)  # every prediction


def fingerprints(config: RunConfig, examples: Examples) -> dict[str, Any]:
    """What a plan was made for: the tokens, the tokenizer, the machine."""
    found: dict[str, Any] = {"machine": machine(resolve_device(config.train.device))}
    if isinstance(examples, Corpus):
        found |= {
            "data": examples.content,
            "tokenizer": Tokenizer.load(examples.tokenizer).fingerprint,
        }
    else:
        rows = examples.train_batches(config.batches, context=config.model.context, rows=1)
        found["data"] = rows.state_dict().get("fingerprint")
    return found


def plan_record(config: RunConfig, record: Mapping[str, Any], examples: Examples) -> dict[str, Any]:
    """The whole plan, as JSON."""
    return {
        "kind": "plan", "format": FORMAT, "fingerprint": fingerprints(config, examples), **record,
        "examples": str(examples.path.absolute()), "config": config.model_dump(mode="json", exclude_none=True),
    }  # fmt: skip


def read_plan(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """A plan's config and its record.

    Raises:
        ConfigError: no such file, or not a plan, or one of a newer version.
    """
    how = "make one with: steepest plan DATA --time 10m --out plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such plan; {how}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is not a plan: it is not JSON; {how}") from None
    if not isinstance(plan, dict) or plan.get("kind") != "plan" or not isinstance(plan.get("config"), dict):
        raise ConfigError(f"{path} is not a plan: it names no config; {how}")
    if isinstance(plan.get("format"), int) and plan["format"] > FORMAT:
        raise ConfigError(
            f"{path} was made by a newer steepest (plan format {plan['format']}, this one reads up to {FORMAT}); "
            "upgrade steepest"
        )
    config = build(RunConfig, plan["config"], where=str(path))
    lacking = [key for key in FIGURES if not _positive(plan.get(key))]
    lacking += [] if isinstance(plan.get("fingerprint"), dict) else ["fingerprint"]
    if lacking:
        raise ConfigError(f"{path} is not a whole plan: it lacks {', '.join(lacking)}; {how}")
    if "prediction" in plan and promised(plan) is None:
        del plan["prediction"]
        plan["unpredictable"] = "what the plan says of it is not whole"
    return config, plan


def promised(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """A plan's prediction, or ``None`` if it promises nothing or says it in part.

    >>> promised({"prediction": {"value": 1.5, "low": 1.4}}) is None
    True
    """
    told = plan.get("prediction")
    if not isinstance(told, dict) or not all(_positive(told.get(key)) for key in PROMISED):
        return None
    return told if told["low"] < told["value"] < told["high"] else None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def check_plan(plan: Mapping[str, Any], config: RunConfig, examples: Examples) -> None:
    """Refuse a plan that was made for other data or another machine."""
    made_for, here = plan.get("fingerprint", {}), fingerprints(config, examples)
    for part, remedy in (
        (
            "data",
            "its promise holds for that data alone: plan again on this, or give the data it was made for",
        ),
        ("tokenizer", "another vocabulary makes other tokens: plan again"),
    ):
        if made_for.get(part) != here.get(part):
            sources = ", ".join(plan["config"].get("data", {}).get("sources", ["python-docs"]))
            raise DataError(
                f"the plan was made for other data (another {part} than {sources} gives now); {remedy}"
            )
    if plan.get("machine_factor", 1.0) == 1.0 and made_for.get("machine") != here["machine"]:
        raise ConfigError(
            f"the plan was made for another machine ({_told(made_for.get('machine', {}))}; this is "
            f"{_told(here['machine'])}); plan again here, or there with --machine-factor for how much faster this one is"
        )


def _told(one: Mapping[str, Any]) -> str:
    return f"{one.get('device', 'unknown')}, {one.get('cores', '?')} x {one.get('processor', '?')}"
