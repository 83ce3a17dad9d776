"""Choose what is not given: the model's size from the time, then batch, rate, threads and split.

The rule for the size, until a ladder of small runs does better: measure the seconds per token of a few sizes and
take the size that sees about ``TOKENS_PER_PARAMETER`` tokens for each of its matrix parameters in the time there
is. Four is what the first minutes of training ask for (measured, docs/planning.md); long runs of large models ask
for about 20 (J. Hoffmann et al., https://arxiv.org/abs/2203.15556).

With a budget in steps, tokens or epochs nothing is measured: the run is a pure function of config and seed.
"""

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from steepest.data.examples import Examples
from steepest.errors import ConfigError
from steepest.model import TransformerConfig
from steepest.model.size import flops_per_token, n_matrix_parameters, n_parameters
from steepest.optim import default_lr
from steepest.optim.muon import product_dtype
from steepest.planning.measure import StepProbe, interpolate_speed, matrix_product_flops
from steepest.train.footprint import subject_of
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, resolve_autocast, resolve_device, total_steps
from steepest.train.speed import fastest_threads, seconds_of, thread_candidates, usable_cores
from steepest.train.split import fit

TOKENS_PER_PARAMETER = 4.0
MOST_EPOCHS, LARGEST_SHARE = 7.0, 8.0
LEAST_SECONDS = 5.0
MEASURING_SHARE = 0.25  # of the time, all that comes before it included, after which no more is measured
TRAINING_SHARE = 0.92  # of the time left after planning; the rest is evaluations, checkpoints, the sample
COMPILE_SECONDS, COMPILE_GAIN = 40.0, 0.15  # torch.compile's warm-up, and the share of the time it saves
PROBE_TOKENS = 2048  # of the steps that are timed
SETTLING_TOKENS = 1024  # of those that only decide on threads and dtype
MICRO_BATCH_TOKENS = 4096  # tokens whose activations are held at once on a CPU

# Depth and width from small to large; heads of 64, so no width below 128 but the smallest.
FAMILY = (
    (1, 64), (1, 128), (2, 128), (3, 128), (4, 128), (5, 128), (6, 128), (4, 192), (5, 192), (6, 192), (5, 256),
    (6, 256), (8, 256), (6, 384), (8, 384), (8, 512), (10, 640), (12, 768), (16, 1024),
)  # fmt: skip
MIDDLING = (2, 128)  # whose steps decide on threads and dtype
PROBED = (
    ((1, 128), 0.0),
    ((4, 128), 0.0),
    ((6, 256), 240.0),
    ((8, 512), 3600.0),
)  # with the least time for each


def choose(
    given: RunConfig, examples: Examples, kind: Kind, *, started: float, listen: Listener
) -> tuple[RunConfig, dict[str, Any]]:
    """Resolve every choice the user left open; returns the whole config and a record of what was measured.

    Args:
        given: what the user set (its ``model_fields_set`` tells what that was).
        started: ``time.monotonic()`` when the command began.
    """
    device = resolve_device(given.train.device)
    threads = given.train.threads or usable_cores()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    seconds = None if given.train.time is None else given.train.time - (time.monotonic() - started)
    fixed: dict[str, Any] = kind.shape(given) | given.model.model_dump(exclude_unset=True)
    record: dict[str, Any] = {}
    if seconds is not None and seconds < LEAST_SECONDS:
        raise ConfigError(
            f"--time {given.train.time:g}s is too short: {seconds:.0f}s would be left for training after reading and "
            f"tokenizing, and {LEAST_SECONDS:.0f}s is the least; give more time, or a budget in --steps"
        )
    if given.train.time is None:
        model = TransformerConfig(**fixed)
        expected = None
    else:
        probe = _Probe(kind, examples, device) if kind.own_probe else _Probe(None, None, device)
        given = _settle(given, _member(fixed, MIDDLING), probe, record)
        threads = given.train.threads or threads
        listen(
            "machine",
            {"threads": threads, "flops": record["flops"], "device": device.type, "dtype": given.train.dtype},
        )
        model, expected = _by_time(given, fixed, probe, started, examples.train_tokens, record)
    batch_tokens = given.batches.batch_tokens or default_batch_tokens(model.context, expected)
    optim = given.optim
    if optim.lr is None:
        optim = optim.replace(lr=default_lr(optim.optimizer, width=model.width, batch_tokens=batch_tokens))
    compiled = given.train.compile
    if compiled is None:
        compiled = given.train.time is not None and COMPILE_GAIN * given.train.time > 2 * COMPILE_SECONDS
    config = given.replace(
        model=model,
        batches=given.batches.replace(batch_tokens=batch_tokens),
        optim=optim,
        train=given.train.replace(
            threads=threads,
            compile=compiled,
            expected_tokens=expected,
        ),
    )
    config, fitted = fit(
        config,
        preferred=_micro_batch(batch_tokens, model.context, device),
        subject=subject_of(config, examples, kind.objective),
        corpus_bytes=(2 if model.vocab_size <= 2**16 else 4)
        * (examples.train_tokens + examples.held_out_tokens),
    )
    record["memory"] = fitted.record()
    n_sequences = max(1, (examples.train_tokens - 1) // model.context)
    tokens = (
        expected
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


def _by_time(
    given: RunConfig,
    fixed: dict[str, Any],
    probe: "_Probe",
    started: float,
    unique: int,
    record: dict[str, Any],
) -> tuple[TransformerConfig, int]:
    """The model that suits the time left and the ``unique`` tokens there are, and the tokens it will see."""
    assert given.train.time is not None
    sized = bool({"depth", "width"} & fixed.keys())
    shapes = [shape for shape, least in PROBED if given.train.time >= least]
    probes = [TransformerConfig(**fixed)] if sized else [_member(fixed, shape) for shape in shapes]
    measured: dict[int, float] = {}
    for model in probes:
        if measured and time.monotonic() - started > MEASURING_SHARE * given.train.time:
            break
        measured[n_matrix_parameters(model)] = probe(given, model).seconds_per_token()
    record["seconds_per_token"] = measured
    # Never less than a little: a budget that measuring has eaten still gets its smallest model.
    left = TRAINING_SHARE * max(given.train.time - (time.monotonic() - started), 0.05 * given.train.time)
    family = probes if sized else [_member(fixed, shape) for shape in FAMILY]
    sizes = [n_matrix_parameters(model) for model in family]
    tokens = [left / interpolate_speed(measured, size) for size in sizes]
    index = choose_size(sizes, tokens, unique)
    model, epochs = family[index], tokens[index] / max(unique, 1)
    if "dropout" not in given.model.model_fields_set:
        model = model.replace(dropout=default_dropout(epochs))
    return model, max(1, int(tokens[index]))


def choose_size(sizes: Sequence[int], tokens: Sequence[float], unique: int) -> int:
    """Which of some sizes to train, given the tokens that each would see in the time there is.

    The one whose tokens per parameter are nearest to ``TOKENS_PER_PARAMETER``; but where that would repeat the
    text more than ``MOST_EPOCHS`` times, a larger one that sees it less often, up to ``LARGEST_SHARE`` parameters
    a token of text.

    >>> sizes, tokens = [200_000, 400_000, 800_000, 1_600_000], [4e6, 2e6, 1e6, 5e5]
    >>> choose_size(sizes, tokens, unique=10_000_000), choose_size(sizes, tokens, unique=200_000)
    (1, 2)
    """
    allowed = [
        index for index, size in enumerate(sizes)
        if tokens[index] <= MOST_EPOCHS * unique or size >= LARGEST_SHARE * unique
    ] or [len(sizes) - 1]  # fmt: skip
    return min(allowed, key=lambda index: abs(math.log(tokens[index] / sizes[index] / TOKENS_PER_PARAMETER)))


def default_dropout(epochs: float) -> float:
    """None while text is fresh; 0.03 an epoch from the fourth on, 0.3 at most.

    >>> [default_dropout(epochs) for epochs in (1, 3.9, 7, 20)]
    [0.0, 0.0, 0.21, 0.3]
    """
    return 0.0 if epochs < 4 else round(min(0.3, 0.03 * epochs), 3)


def _settle(given: RunConfig, model: TransformerConfig, probe: "_Probe", record: dict[str, Any]) -> RunConfig:
    """Thread count and dtype that make a real step of a middling model fastest, where they were left open.

    One thread comes first: on a busy machine several can be twenty times slower, and measuring must stay short.
    """
    train, device = given.train, probe.device
    if device.type == "cpu":
        candidates = [train.threads] if train.threads else sorted(thread_candidates())
        torch.set_num_threads(candidates[0])
        dtypes: tuple[str, ...] = (train.dtype,)
        if train.dtype == "auto":  # where bfloat16 is emulated, a step may take ten times as long
            native = product_dtype(torch.zeros(1)) == torch.bfloat16
            dtypes = ("float32", "bfloat16") if native else ("float32",)
        probes = {
            dtype: probe(given.replace(train=train.replace(dtype=dtype)), model, SETTLING_TOKENS)
            for dtype in dtypes
        }
        seconds = {dtype: seconds_of(probe, repeats=2) for dtype, probe in probes.items()}
        dtype = min(seconds, key=lambda name: seconds[name])
        if seconds[dtype] > 0.9 * seconds.get("float32", math.inf):
            dtype = "float32"  # a small gain is not worth the rounding
        record["step_seconds_by_dtype"] = seconds
        threads = candidates[0]
        if len(candidates) > 1:
            threads, record["step_seconds_by_threads"] = fastest_threads(probes[dtype], candidates, repeats=2)
        train = train.replace(dtype=dtype, threads=threads)
    record["flops"] = matrix_product_flops(device=device)
    return given.replace(train=train)


def _member(fixed: dict[str, Any], shape: tuple[int, int]) -> TransformerConfig:
    return TransformerConfig(**{"depth": shape[0], "width": shape[1], **fixed})


class _Probe:
    """Makes steps to be timed: of next-token prediction, or of the kind's own objective on its own first batch."""

    def __init__(self, kind: Kind | None, examples: Examples | None, device: torch.device) -> None:
        self.kind, self.examples, self.device = kind, examples, device

    def __call__(self, given: RunConfig, model: TransformerConfig, tokens: int = PROBE_TOKENS) -> StepProbe:
        tokens = given.batches.batch_tokens or tokens
        rows = max(1, round(tokens / model.context))
        objective = batch = None
        if self.kind is not None and self.examples is not None:
            config = given.replace(model=model)
            objective = partial(self.kind.objective, config)
            batch = self.examples.train_batches(given.batches, context=model.context, rows=rows).at(0)
        return StepProbe(
            model, given.optim, sequences=rows,
            micro_batch=given.train.micro_batch or _micro_batch(tokens, model.context, self.device),
            device=self.device, autocast=resolve_autocast(given, self.device), objective=objective, batch=batch,
        )  # fmt: skip


def default_batch_tokens(context: int, tokens: int | None) -> int:
    """Tokens a step: the power of two next to 1.5 sqrt(tokens of the whole run), between 1,024 and 2^19.

    >>> [default_batch_tokens(256, tokens) for tokens in (500_000, 2_000_000, 10_000_000, 1_000_000_000)]
    [1024, 2048, 4096, 65536]
    """
    wanted = 2048 if tokens is None else 2 ** round(math.log2(1.5 * math.sqrt(tokens)))
    return max(context, min(max(wanted, 1024), 2**19))


def _micro_batch(batch_tokens: int, context: int, device: torch.device) -> int:
    """Sequences held at once: on a CPU the largest equal part of the batch that its caches like."""
    sequences = max(1, round(batch_tokens / context))
    if device.type != "cpu":
        return sequences
    limit = max(1, MICRO_BATCH_TOKENS // context)
    return max(part for part in range(1, min(sequences, limit) + 1) if sequences % part == 0)
