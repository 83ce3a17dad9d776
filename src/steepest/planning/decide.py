"""Decide: the best size of a menu that fits the memory, and its whole config.

fitting     sizes that fit what the user allows, before a ladder is climbed for one of them
decide      the size with the least predicted loss, with batch, rate, dropout and split of the batch
"""

import bisect
import math
from typing import Any

from steepest.data.examples import Examples
from steepest.errors import ConfigError
from steepest.model import TransformerConfig
from steepest.model.size import n_matrix_parameters
from steepest.planning.measure import settle
from steepest.planning.menu import NEAR, Menu
from steepest.planning.promise import Promise
from steepest.planning.rules import (
    default_batch_tokens,
    default_dropout,
    default_micro_batch,
    with_rate,
)
from steepest.train.footprint import subject_of
from steepest.train.kinds import Kind
from steepest.train.run import RunConfig, resolve_device
from steepest.train.speed import usable_cores
from steepest.train.split import fit, unpredicted


def decide(
    given: RunConfig, whole: Menu, count: int, found: Promise, examples: Examples, kind: Kind, record: dict[str, Any],
    *, timed: int,
) -> tuple[RunConfig, dict[str, Any]]:  # fmt: skip
    """The best size that fits the memory, and what is promised of it.

    Args:
        count: sizes of the menu, from the smallest on, that are likely to fit.
        timed: matrix parameters up to which the steps timed so far stand for the run's, in memory.
    """
    menu = whole.up_to(count)
    index = menu.best(found.outlook)

    def settled(menu: Menu, index: int, given: RunConfig = given) -> tuple[RunConfig, dict[str, Any]]:
        return _of_menu(given, menu, index, examples, kind, found.multiplier, timed)

    while True:
        try:
            config, record["memory"] = settled(menu, index)
            break
        except ConfigError:
            if index == 0 or given.train.memory is None:
                raise
            menu = menu.up_to(index)
            index = menu.best(found.outlook)
    if found.record is not None:
        record["ladder"] = found.record
    outlook = found.outlook
    if outlook is None or outlook.law is None:
        record["unpredictable"] = found.reason
        return config, record

    def more_memory() -> int:
        for larger in range(whole.best(outlook), index, -1):
            try:
                settled(
                    whole,
                    larger,
                    given.replace(train=given.train.replace(memory=2 * (given.train.memory or 0))),
                )
            except ConfigError:
                continue
            return larger
        return index

    record |= outlook.record(
        menu, index, memory=whole if given.train.memory is None else whole.only(more_memory())
    )  # fmt: skip
    return config, record


def with_dropout(given: RunConfig, menu: Menu, index: int) -> TransformerConfig:
    """The model of one size, with the rule's dropout unless the user gave one."""
    model = menu.models[index]
    if "dropout" in given.model.model_fields_set:
        return model
    return model.replace(dropout=default_dropout(menu.epochs(index)))


def _of_menu(
    given: RunConfig,
    menu: Menu,
    index: int,
    examples: Examples,
    kind: Kind,
    multiplier: float = 1.0,
    timed: int = 0,
) -> tuple[RunConfig, dict[str, Any]]:
    """The whole config of one size, and how its memory is split."""
    tokens = max(1, int(menu.tokens[index]))
    model = with_dropout(given, menu, index)
    config, memory = settled_config(given, model, tokens, examples, kind, multiplier, timed)
    if menu.tokens[index] < menu.bought[index] and given.train.most_steps is None:
        steps = math.ceil(tokens / (config.batches.batch_tokens or model.context))
        config = config.replace(train=config.train.replace(most_steps=steps))
    return config, memory


def fitting(given: RunConfig, menu: Menu, examples: Examples, kind: Kind) -> int:
    """How many sizes, from the smallest on, fit the memory that the user allows: a ladder must stand for one of them.

    Raises:
        ConfigError: not even the smallest does.
    """
    if given.train.memory is None:
        return len(menu.models)

    def fits(index: int) -> bool:
        try:
            _of_menu(given, menu, index, examples, kind)
        except ConfigError:
            return False
        return True

    sizes = menu.sizes
    largest = max(index for index, size in enumerate(sizes) if size <= NEAR * sizes[menu.rule])
    if fits(largest):
        return len(sizes)
    _of_menu(given, menu, 0, examples, kind)
    return bisect.bisect_left(range(1, largest), True, key=lambda index: not fits(index)) + 1


def settle_here(config: RunConfig, examples: Examples, kind: Kind) -> tuple[RunConfig, dict[str, Any]]:
    """A config that was planned on another machine, with this one's threads, dtype and split of the batch; and that split."""
    config = settle(config, config.model, resolve_device(config.train.device), {})
    return settled_config(config, config.model, config.train.expected_tokens, examples, kind)


def settled_config(
    given: RunConfig, model: TransformerConfig, expected: int | None, examples: Examples, kind: Kind,
    multiplier: float = 1.0, timed: int = 0,
) -> tuple[RunConfig, dict[str, Any]]:  # fmt: skip
    """The whole config of a run of a model over some tokens, and how its memory is split."""
    device = resolve_device(given.train.device)
    batch_tokens = given.batches.batch_tokens or default_batch_tokens(model.context, expected)
    optim = with_rate(given.optim, width=model.width, batch_tokens=batch_tokens, multiplier=multiplier)
    threads = given.train.threads or usable_cores()
    config = given.replace(
        model=model,
        batches=given.batches.replace(batch_tokens=batch_tokens),
        optim=optim,
        train=given.train.replace(
            threads=threads, compile=bool(given.train.compile), expected_tokens=expected
        ),
    )
    preferred = default_micro_batch(batch_tokens, model.context, device)
    if n_matrix_parameters(model) <= timed and (seen := unpredicted(config, preferred=preferred)) is not None:
        return seen
    config, fitted = fit(
        config,
        preferred=preferred,
        subject=subject_of(config, examples, kind.objective),
        corpus_bytes=(2 if model.vocab_size <= 2**16 else 4)
        * (examples.train_tokens + examples.held_out_tokens),
    )
    return config, fitted.record()
