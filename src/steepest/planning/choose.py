"""Choose what is not given: the model's size from the time, then batch, rate, threads and split.

    measure     threads, dtype, seconds per token of a few sizes            (``measure``)
    rule        a size from speed alone: the prior plan, and the whole plan where no ladder pays     (``rules``)
    ladder      small runs within a tenth of the time, and the law fitted to them      (``promise``)
    decide      the size with the least predicted loss, with the prediction and its intervals     (``decide``)

With a budget in steps, tokens or epochs nothing is measured: the run is a pure function of config and seed.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from steepest.data.examples import Examples
from steepest.errors import ConfigError
from steepest.model import TransformerConfig
from steepest.model.size import flops_per_token, n_matrix_parameters, n_parameters
from steepest.planning.decide import decide, fitting, settled_config, with_dropout
from steepest.planning.measure import (
    PROBE_TOKENS,
    Pace,
    StepProbe,
    matrix_product_flops,
    measure_pace,
    own_pace,
    settle,
    settle_compiling,
)
from steepest.planning.menu import Menu
from steepest.planning.promise import LADDER_SHARE, LEAST_TIME, PLANNING_SHARE, Promise, promise
from steepest.planning.rules import (
    MOST_EPOCHS,
    default_micro_batch,
    member,
    with_row_rates,
)
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, resolve_autocast, resolve_device, total_steps
from steepest.train.speed import fastest_threads, thread_candidates, usable_cores

LEAST_SECONDS = 5.0
SLACK, REST_SHARE = (
    1.3,
    0.15,
)  # of steps that are enough, over what they took when timed; of the time, for the rest
START_SECONDS = 5.0  # of a run that was planned ahead, before it trains
MIDDLING = (2, 128)  # whose steps decide on threads and dtype
PREDICTING = (
    3.0  # seconds that a prediction of memory takes, most of them to import the compiler's fake tensors
)
COMPILE_SECONDS = 20.0  # of a run whose blocks are compiled, before it trains
MOST_OF_THE_REST = 0.2  # of the time left, that a ladder may take
PREDICTING_SHARE = 0.02  # of the time, that it may take where nobody asked for a limit
LIKE = 4  # times the parameters of the largest model timed: still like it, for memory that is nowhere near its limit


@dataclass(frozen=True)
class Circumstances:
    """What a choice depends on besides what the user set.

    Attributes:
        started: ``time.monotonic()`` when the command began.
        cache: where ladders and predictions are kept; without it there is no ladder, and the rule decides.
        ahead: the run comes later: what planning takes is not taken from its time.
        machine_factor: how many times as fast as this one the machine is that will train.
    """

    started: float
    cache: Path | None = None
    ahead: bool = False
    machine_factor: float = 1.0

    def spent(self) -> float:
        """Seconds of the run's time that are gone: since the command began, or what a planned run will need to start."""
        return START_SECONDS if self.ahead else time.monotonic() - self.started


def choose(
    given: RunConfig, examples: Examples, kind: Kind, where: Circumstances, listen: Listener
) -> tuple[RunConfig, dict[str, Any]]:
    """Resolve every choice the user left open; returns the whole config and a record of what was measured.

    Args:
        given: what the user set (its ``model_fields_set`` tells what that was).
    """
    if (own := kind.choose(given, examples, started=where.started, listen=listen)) is not None:
        return own
    device = resolve_device(given.train.device)
    if device.type == "cpu":
        torch.set_num_threads(given.train.threads or usable_cores())
    fixed: dict[str, Any] = kind.shape(given) | given.model.model_dump(exclude_unset=True)
    if given.objective.kind == "next-token":
        given = given.replace(optim=with_row_rates(given.optim))
    if given.train.time is None:
        config, memory = settled_config(given, TransformerConfig(**fixed), None, examples, kind)
        record: dict[str, Any] = {"memory": memory}
    elif kind.own_probe:
        config, record = _by_own_step(given, TransformerConfig(**fixed), examples, kind, where, listen)
    else:
        config, record = _by_time(given, fixed, examples, kind, where, listen)
    model, batch_tokens = config.model, config.batches.batch_tokens or config.model.context
    rows = max(1, round(batch_tokens / model.context))
    n_sequences = examples.train_batches(config.batches, context=model.context, rows=rows).n_sequences
    tokens = config.train.expected_tokens or total_steps(config, n_sequences) * rows * model.context
    record |= {
        "parameters": n_parameters(model),
        "matrix_parameters": n_matrix_parameters(model),
        "flops_per_token": flops_per_token(model),
        "tokens": tokens,
        "steps": max(1, tokens // batch_tokens),
        "epochs": tokens / model.context / max(1, n_sequences),
    }
    return config, record


def _by_own_step(
    given: RunConfig,
    model: TransformerConfig,
    examples: Examples,
    kind: Kind,
    where: Circumstances,
    listen: Listener,
) -> tuple[RunConfig, dict[str, Any]]:
    """A kind that knows its size: time its own step, on its own first batch, for threads and length."""
    budget, device = given.train.time or 0.0, resolve_device(given.train.device)
    rows = max(1, round((given.batches.batch_tokens or PROBE_TOKENS) / model.context))
    _refuse_too_short(budget, where)
    if given.train.dtype == "auto" and (model.depth == 0 or device.type == "cpu"):
        given = given.replace(train=given.train.replace(dtype=_dtype(given, model, device)))
    candidates = [given.train.threads] if given.train.threads else sorted(thread_candidates())
    batches = examples.train_batches(given.batches, context=model.context, rows=rows)
    probe = StepProbe(
        model, given.optim, sequences=rows,
        micro_batch=given.train.micro_batch or default_micro_batch(rows * model.context, model.context, device),
        device=device, autocast=resolve_autocast(given, device), objective=partial(kind.objective, given.replace(model=model)),
        batch=batches.at(0),
    )  # fmt: skip
    threads, seconds = fastest_threads(probe, candidates, repeats=2)
    record: dict[str, Any] = {
        "time": budget, "machine_factor": where.machine_factor, "step_seconds_by_threads": seconds,
        "flops": matrix_product_flops(device=device),
    }  # fmt: skip
    given = given.replace(train=given.train.replace(threads=threads))
    listen("machine", {"threads": threads, "flops": record["flops"], "device": device.type,
                       "dtype": given.train.dtype})  # fmt: skip
    left = where.machine_factor * max(budget - where.spent(), 0.05 * budget)
    steps = max(1, int(left / max(seconds[str(threads)], 1e-9)))
    if kind.most_epochs is not None and steps > (
        enough := max(1, kind.most_epochs * batches.n_sequences // rows)
    ):
        needed = where.spent() + SLACK * enough * seconds[str(threads)] + REST_SHARE * budget
        if (
            needed < budget and not where.ahead
        ):  # more epochs would be learnt by heart: the rest of the time is not used
            steps, given = enough, given.replace(train=given.train.replace(time=needed))
            listen(
                "event",
                {"event": "less time is enough", "seconds": round(needed), "epochs": kind.most_epochs},
            )
    config, record["memory"] = settled_config(given, model, steps * rows * model.context, examples, kind)
    return config, record


def _dtype(given: RunConfig, model: TransformerConfig, device: torch.device) -> str:
    """Of the products: the faster one, where there are products; a bag of tokens has none."""
    if model.depth == 0:
        return "float32"
    settled = settle(given, model.replace(depth=1), device, {})
    return settled.train.dtype


def _refuse_too_short(budget: float, where: Circumstances) -> None:
    if (left := budget - where.spent()) < LEAST_SECONDS:
        raise ConfigError(
            f"--time {budget:g}s is too short: {left:.0f}s would be left for training after reading "
            f"and tokenizing, and {LEAST_SECONDS:.0f}s is the least; give more time, or a budget in --steps"
        )


def _by_time(
    given: RunConfig,
    fixed: dict[str, Any],
    examples: Examples,
    kind: Kind,
    where: Circumstances,
    listen: Listener,
) -> tuple[RunConfig, dict[str, Any]]:
    """Measure, climb a ladder if there is time for one, and take the size with the least predicted loss."""
    budget, device = given.train.time or 0.0, resolve_device(given.train.device)
    _refuse_too_short(budget, where)
    began = time.monotonic()
    record: dict[str, Any] = {"time": budget, "machine_factor": where.machine_factor}
    given = settle(given, member(fixed, MIDDLING), device, record)
    listen("machine", {"threads": given.train.threads or 1, "flops": record["flops"], "device": device.type,
                       "dtype": given.train.dtype})  # fmt: skip
    pace = measure_pace(given, fixed, device, time.monotonic() - where.spent())
    afresh = given.train.start is None
    climbing = kind.ladder and where.cache is not None and budget >= LEAST_TIME and afresh

    def menu(pace: Pace, still: float = 0.0) -> Menu:
        # Never less than a little: a budget that measuring has eaten still gets its smallest model.
        spent = where.spent() + (0.0 if where.ahead else still)
        if given.train.compile:
            spent += COMPILE_SECONDS
        seconds = where.machine_factor * max(budget - spent, 0.05 * budget)
        return Menu.of(given, fixed, pace, seconds, examples.train_tokens, kind.most_matrix_parameters)

    count = fitting(given, menu(pace, LADDER_SHARE * budget if climbing else 0.0), examples, kind)

    def at_own_batch(pace: Pace, still: float) -> Pace:
        planned = menu(pace, still).up_to(count)
        return own_pace(given, planned.models[planned.rule], device, planned.batch(planned.rule), pace)

    def ladder_seconds() -> float:
        planned = min(LADDER_SHARE * budget, PLANNING_SHARE * budget - (time.monotonic() - began))
        return min(planned, MOST_OF_THE_REST * (budget - where.spent()))

    pace = at_own_batch(pace, ladder_seconds() if climbing else 0.0)
    allowed = ladder_seconds() if climbing else 0.0
    record["seconds_per_token"] = {size: pace.slowness * seconds for size, seconds in pace.measured.items()}

    if where.cache is not None and climbing:
        found = promise(
            given,
            fixed,
            examples,
            kind,
            menu(pace, allowed).up_to(count),
            pace,
            where.cache,
            seconds=allowed,
            listen=listen,
        )
    else:
        found = Promise(reason="" if where.cache is None else _no_ladder(given, kind))
    if found.record is not None:  # some time has passed: is the machine as fast as it was?
        pace = at_own_batch(pace, 0.0)
    likely = menu(pace).up_to(count)
    index = likely.best(found.outlook)
    here = where.machine_factor == 1.0  # another machine tries for itself
    seconds = likely.tokens[index] * pace.seconds_per_token(likely.sizes[index]) if here else 0.0
    given, slowness = settle_compiling(
        given, with_dropout(given, likely, index), device, likely.batch(index), seconds=seconds
    )
    if slowness is not None:
        record["compiled_slowness"] = slowness
        if given.train.compile:
            pace = pace.times(slowness)
    hasty = given.train.memory is None and PREDICTING_SHARE * budget < PREDICTING
    config, record = decide(
        given,
        menu(pace),
        count,
        found,
        examples,
        kind,
        record,
        timed=LIKE * max(pace.measured) if hasty else 0,
    )
    if config.train.most_steps != given.train.most_steps:  # more epochs would be learnt by heart
        listen("event", {"event": "less time is enough", "epochs": MOST_EPOCHS})
    return config, record


def _no_ladder(given: RunConfig, kind: Kind) -> str:
    """Why there is none."""
    if not kind.ladder:
        return f"the loss of {given.objective.kind} is not predicted: ladders are for next-token"
    if given.train.start is not None:
        return "a run that goes on from another has no ladder: small runs start from random weights"
    return f"{given.train.time:.0f}s are too short for a ladder of small runs; it takes {LEAST_TIME:.0f}s at least"


def limit_vocabulary(given: RunConfig) -> RunConfig:
    """Minutes on a CPU cannot feed a large vocabulary: at most 4,096 tokens below half an hour."""
    time, tokenizer = given.train.time, given.tokenizer
    if time is None or time >= 1800 or resolve_device(given.train.device).type != "cpu":
        return given
    if "vocab_limit" in tokenizer.model_fields_set or tokenizer.vocab_size != "auto":
        return given
    return given.replace(tokenizer=tokenizer.replace(vocab_limit=4096))
