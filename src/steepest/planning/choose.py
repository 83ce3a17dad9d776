"""Choose what is not given: the model's size from the time, then batch, rate, threads and split.

    measure     threads, dtype, seconds per token of a few sizes            (``measure``)
    rule        a size from speed alone: the prior plan, and the whole plan where no ladder pays     (``rules``)
    ladder      small runs within a tenth of the time, and the law fitted to them      (``promise``)
    choose      the size with the least predicted loss, with the prediction and its intervals

With a budget in steps, tokens or epochs nothing is measured: the run is a pure function of config and seed.
"""

import time
from pathlib import Path
from typing import Any

import torch

from steepest.data.examples import Examples
from steepest.errors import ConfigError
from steepest.model import TransformerConfig
from steepest.model.size import flops_per_token, n_matrix_parameters, n_parameters
from steepest.planning.measure import measure_pace, settle
from steepest.planning.menu import Menu
from steepest.planning.promise import promise
from steepest.planning.rules import default_batch_tokens, default_dropout, default_micro_batch, member, with_rate
from steepest.train.footprint import subject_of
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, resolve_device, total_steps
from steepest.train.speed import usable_cores
from steepest.train.split import fit

LEAST_SECONDS = 5.0
COMPILE_SECONDS, COMPILE_GAIN = 40.0, 0.15  # torch.compile's warm-up, and the share of the time it saves
MIDDLING = (2, 128)  # whose steps decide on threads and dtype


def choose(
    given: RunConfig,
    examples: Examples,
    kind: Kind,
    *,
    started: float,
    listen: Listener,
    cache: Path | None = None,
    ahead: bool = False,
    machine_factor: float = 1.0,
) -> tuple[RunConfig, dict[str, Any]]:
    """Resolve every choice the user left open; returns the whole config and a record of what was measured.

    Args:
        given: what the user set (its ``model_fields_set`` tells what that was).
        started: ``time.monotonic()`` when the command began.
        cache: where ladders and predictions are kept; without it there is no ladder, and the rule decides.
        ahead: the run comes later: what planning takes is not taken from its time.
        machine_factor: how many times as fast as this one the machine is that will train.
    """
    device = resolve_device(given.train.device)
    threads = given.train.threads or usable_cores()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    seconds = None if given.train.time is None else given.train.time - (time.monotonic() - started)
    fixed: dict[str, Any] = kind.shape(given) | given.model.model_dump(exclude_unset=True)
    record: dict[str, Any] = {}
    multiplier, expected = 1.0, None
    if seconds is not None and seconds < LEAST_SECONDS:
        raise ConfigError(
            f"--time {given.train.time:g}s is too short: {seconds:.0f}s would be left for training after reading and "
            f"tokenizing, and {LEAST_SECONDS:.0f}s is the least; give more time, or a budget in --steps"
        )
    if seconds is None:
        models = [TransformerConfig(**fixed)]
    else:
        given = settle(given, member(fixed, MIDDLING), device, record)
        threads = given.train.threads or threads
        listen(
            "machine",
            {"threads": threads, "flops": record["flops"], "device": device.type, "dtype": given.train.dtype},
        )
        pace = measure_pace(given, fixed, device, started)
        menu = Menu.of(given, fixed, examples, pace, started, ahead=ahead, machine_factor=machine_factor)
        record["seconds_per_token"] = pace.measured
        if cache is not None:
            menu, multiplier = promise(given, fixed, examples, kind, menu, cache, record, listen)
        models = [
            model if "dropout" in fixed else model.replace(dropout=default_dropout(epochs))
            for model, epochs in menu.from_best_down()
        ]
        expected = menu.expected_tokens
    config, fitted = _settled(given, models, examples, kind, expected, threads, multiplier)
    model, batch_tokens = config.model, config.batches.batch_tokens or model.context
    record["memory"] = fitted
    n_sequences = max(1, (examples.train_tokens - 1) // model.context)
    tokens = (
        config.train.expected_tokens
        or total_steps(config, n_sequences) * max(1, round(batch_tokens / model.context)) * model.context
    )
    record |= {
        "parameters": n_parameters(model),
        "matrix_parameters": n_matrix_parameters(model),
        "flops_per_token": flops_per_token(model),
        "tokens": tokens,
        "steps": max(1, tokens // batch_tokens),
        "epochs": tokens / max(1, examples.train_tokens),
    }
    return config, record


def limit_vocabulary(given: RunConfig) -> RunConfig:
    """Minutes on a CPU cannot feed a large vocabulary: at most 4,096 tokens below half an hour."""
    time, tokenizer = given.train.time, given.tokenizer
    if time is None or time >= 1800 or resolve_device(given.train.device).type != "cpu":
        return given
    if "vocab_limit" in tokenizer.model_fields_set or tokenizer.vocab_size != "auto":
        return given
    return given.replace(tokenizer=tokenizer.replace(vocab_limit=4096))
