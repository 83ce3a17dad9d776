"""Runs made sick on purpose, and healthy ones of many shapes: what the verdicts of ``health/`` are held to.

A fault is planted in the composed parts of a run, before training; nothing in the package knows of it. Used by
``test_verdicts.py`` (one of each kind) and by ``benchmarks/health.py`` (all).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.config import build
from steepest.errors import TrainingError
from steepest.health import Verdict
from steepest.model import TransformerConfig
from steepest.optim.config import default_lr
from steepest.train.evaluate import evaluate
from steepest.train.health_watch import HealthWatch
from steepest.train.kinds import kind_of
from steepest.train.loop import Record, run_loop
from steepest.train.run import RunConfig, compose
from steepest.train.state import TrainState

Fault = Callable[[TrainState], None]
Settings = Mapping[str, Mapping[str, Any]]
BASE: Settings = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 4, "width": 48, "head_dim": 16, "context": 48},
    "batches": {"batch_tokens": 480},
    "train": {"steps": 150, "evaluations": 10, "device": "cpu"},
    "health": {"every": 15},
}


@dataclass(frozen=True)
class Case:
    """A run: its settings beside ``BASE``, and what is wrong with it."""

    name: str
    settings: Settings = field(default_factory=dict)
    kind: str | None = None  # the verdict that must be given
    fault: Fault = lambda state: None
    text_bytes: int | None = None  # how much of the text it may use


def train(
    case: Case, text: Path, cache: Path, *, base: Settings = BASE, seed: int = 0
) -> tuple[list[Verdict], list[Record]]:
    """Train a case on a text file; its verdicts, and the lines of its metrics."""
    if case.text_bytes is not None:
        text, whole = cache / f"{case.name}.txt", text.read_text()
        text.write_text(whole[: case.text_bytes])
    tables = {name: {**base.get(name, {}), **case.settings.get(name, {})} for name in {*base, *case.settings}}
    tables["data"] = {"sources": [str(text)], **tables.get("data", {})}
    tables["train"]["seed"] = tables["batches"]["seed"] = seed
    kind, given, examples = kind_of(build(RunConfig, tables)).prepare(
        build(RunConfig, tables), cache, _silent
    )
    model = TransformerConfig(**{**kind.shape(given), **given.model.model_dump(exclude_unset=True)})
    rate = default_lr(given.optim.optimizer, width=model.width, batch_tokens=given.batches.batch_tokens)
    config = given.replace(model=model, optim=given.optim.replace(lr=given.optim.lr or rate))
    state = compose(config, examples, kind.objective)
    case.fault(state)
    records: list[Record] = []
    verdicts: list[Verdict] = []
    watch = HealthWatch(config, log=records.append, event=_silent, micro_batch=lambda: 1 << 20)

    def observe(state: TrainState, record: Record) -> None:
        record["seconds"] = 0.0
        records.append(record)

    def judge_held_out(state: TrainState, record: Record) -> None:
        batches = examples.held_out_batches(config.batches, context=model.context, tokens=4096)
        line = {"step": state.step, "evaluation": evaluate(state.objective, batches)}
        records.append(line)
        watch.see(line)

    watch.begin(state)
    hooks = [(1, observe), (1, watch)]
    if config.train.evaluations:
        hooks.append((config.train.steps // config.train.evaluations, judge_held_out))
    try:
        run_loop(state, lr=config.optim.lr, clip=config.optim.clip, hooks=hooks,
                 micro_batch=config.train.micro_batch or 1 << 20)  # fmt: skip
    except TrainingError:  # too many steps skipped
        assert case.kind is not None
    verdicts += watch.verdicts
    return verdicts, records


def _silent(*_: object, **__: object) -> None:
    """Listen to nothing."""


# -- faults -------------------------------------------------------------------------------------------------


def no_residual(gain: float, *, normed: bool) -> Fault:
    """A plain stack: no connection past the halves of a block; without norms if asked."""

    def plant(state: TrainState) -> None:
        for block in state.objective.trunk.blocks:
            if not normed:
                block.attention_norm, block.mlp_norm = _Nothing(), _Nothing()
            for matrix in (block.attention.out.weight, block.mlp.down.weight):
                nn.init.normal_(matrix, std=gain * matrix.shape[1] ** -0.5)
            block.forward = _carrying(block, 0.0)

    return plant


def leaking(keep: float) -> Fault:
    """Each half of a block passes on only a part of the stream."""

    def plant(state: TrainState) -> None:
        for block in state.objective.trunk.blocks:
            block.forward = _carrying(block, keep)

    return plant


def _carrying(block: Any, keep: float) -> Callable[..., Tensor]:
    def forward(h: Tensor, rotation: Any, *, mask: Any = None, plain: bool = False, **_: Any) -> Tensor:
        h = keep * h + block.attend(h, rotation, mask=mask, plain=plain)
        return keep * h + block.feed(h, plain=plain)

    return forward


class _Nothing(nn.Module):
    def forward(self, x: Tensor, *, plain: bool = False) -> Tensor:
        return x


def growing_stream(factor: float) -> Fault:
    """Residual blocks without norms, whose halves add ``factor`` times too much."""

    def plant(state: TrainState) -> None:
        for block in state.objective.trunk.blocks:
            block.attention_norm, block.mlp_norm = _Nothing(), _Nothing()
            nn.init.normal_(
                block.attention.out.weight, std=factor * block.attention.out.weight.shape[1] ** -0.5
            )
            nn.init.normal_(block.mlp.down.weight, std=factor * block.mlp.down.weight.shape[1] ** -0.5)

    return plant


def silent_attention(index: int) -> Fault:
    """One block's attention adds nothing and cannot learn to."""

    def plant(state: TrainState) -> None:
        for parameter in state.objective.trunk.blocks[index].attention.parameters():
            parameter.requires_grad_(False)

    return plant


def silent_mlp(index: int, share: float) -> Fault:
    """A share of one mlp's units is zero, with a gradient of zero."""

    def plant(state: TrainState) -> None:
        mlp = state.objective.trunk.blocks[index].mlp
        width = mlp.down.in_features
        with torch.no_grad():
            for start in (0, width):
                mlp.gate_up.weight[start : start + round(share * width)] = 0.0

    return plant


def every_step(change: Callable[[Any, int], None]) -> Fault:
    """Do something to the objective before each step."""

    def plant(state: TrainState) -> None:
        whole = state.objective.accumulate_gradient

        def wrapped(batch: Any, **options: Any) -> Tensor:
            if len(batch.ids_BT) > 2:  # not in a probe
                with torch.no_grad():
                    change(state.objective, state.step)
            return whole(batch, **options)

        state.objective.accumulate_gradient = wrapped

    return plant


def sharpen(objective: Any, step: int) -> None:
    """Attention gets 2% sharper a step."""
    for block in objective.trunk.blocks:
        block.attention.q_norm.weight *= 1.02


def collapse(objective: Any, step: int) -> None:
    """Embeddings are drawn to their mean by 3% a step, and the mean is kept from shrinking."""
    rows = objective.trunk.embedding.weight
    mean = nn.functional.normalize(rows.mean(0), dim=0) * rows.norm(dim=1).mean()
    rows.lerp_(mean.expand_as(rows), 0.03)


def bad_batch(at: int) -> Fault:
    """One step's loss is three times what it should be."""

    def plant(state: TrainState) -> None:
        whole = state.objective.loss

        def loss(batch: Any) -> Tensor:
            value: Tensor = whole(batch)
            return value * 3 if state.step == at and len(batch.ids_BT) > 2 else value

        state.objective.loss = loss

    return plant


def overflow(first: int, every: int) -> Fault:
    """The gradient is not a number at some steps."""

    def plant(state: TrainState) -> None:
        whole = state.objective.accumulate_gradient

        def wrapped(batch: Any, **options: Any) -> Tensor:
            mean = whole(batch, **options)
            if len(batch.ids_BT) > 2 and state.step >= first and state.step % every == 0:
                next(state.objective.parameters()).grad.view(-1)[0] = torch.nan
            return mean

        state.objective.accumulate_gradient = wrapped

    return plant


def _model(**fields: Any) -> dict[str, dict[str, Any]]:
    return {"model": fields}


SICK = [
    Case("vanishing", _model(depth=12), "vanishing gradient", leaking(0.7)),
    Case("vanishing-plain", _model(depth=8), "vanishing gradient", no_residual(0.5, normed=False)),
    Case("exploding", _model(depth=16), "exploding gradient", no_residual(0.7, normed=True)),
    Case("exploding-no-norm", {"model": {"depth": 8}, "optim": {"lr": 1e-4}}, "exploding gradient", growing_stream(1.5)),
    Case("dead-layer", {}, "dead layer", silent_attention(2)),
    Case("dead-mlp", {}, "dead layer", silent_mlp(1, 1.0)),
    Case("dead-by-decay", {"optim": {"optimizer": "sgd", "weight_decay": 0.1}}, "dead layer"),
    Case("dead-units", {}, "dead units", silent_mlp(2, 0.6)),
    Case("rate-too-high", {"optim": {"optimizer": "adamw", "lr": 0.2}}, "rate too high"),
    Case("rate-too-high-muon", {"optim": {"lr": 0.5}}, "rate too high"),
    Case("rate-too-low", {"optim": {"optimizer": "adamw", "lr": 3e-5}}, "rate too low"),
    Case("rate-too-low-muon", {"optim": {"lr": 1e-4}}, "rate too low"),
    Case("clipping", {"optim": {"clip": 0.02}}, "clipping on every step"),
    Case("logits", {}, "attention logits growing", every_step(sharpen)),
    Case("collapse", {}, "embeddings collapsing", every_step(collapse)),
    Case("over-fitting", {"train": {"steps": 300}, "optim": {"weight_decay": 0.0}, "data": {"validation": 0.3}}, "over-fitting",
         text_bytes=2000),
    Case("spike", {}, "loss spike", bad_batch(100)),
    Case("spike-unguarded", {"optim": {"spike_sigmas": 1e9}}, "loss spike", bad_batch(90)),
    Case("overflow", {}, "non-finite steps", overflow(60, 7)),
]  # fmt: skip


HEALTHY = [
    Case("plain"),
    Case("shallow", _model(depth=1)),
    Case("deep", _model(depth=12, width=32, head_dim=16)),
    Case("deeper", {"model": {"depth": 24, "width": 32, "head_dim": 16}, "train": {"steps": 90}}),
    Case("wide", {"model": {"depth": 2, "width": 128, "head_dim": 32}, "train": {"steps": 100}}),
    Case("narrow", _model(depth=6, width=16, head_dim=8)),
    Case("one-head", _model(depth=3, width=48, head_dim=48)),
    Case("grouped", _model(kv_heads=1)),
    Case("tied", _model(tie_embeddings=True)),
    Case("dropout", _model(dropout=0.2)),
    Case("reversible", _model(coupling="reversible", depth=6)),
    Case("long-context", {"model": {"context": 160}, "batches": {"batch_tokens": 640}}),
    Case("short-context", _model(context=12)),
    Case("adamw", {"optim": {"optimizer": "adamw"}}),
    Case("sgd", {"optim": {"optimizer": "sgd", "weight_decay": 0.0}, "train": {"steps": 250}}),
    Case("cosine", {"optim": {"schedule": "cosine", "optimizer": "adamw", "warmup": 0.1}}),
    Case("constant", {"optim": {"schedule": "constant"}}),
    Case("no-decay", {"optim": {"weight_decay": 0.0}}),
    Case("bpe", {"tokenizer": {"kind": "bpe", "vocab_size": 512}}),
    Case("small-batch", {"batches": {"batch_tokens": 144}, "train": {"steps": 300}}),
    Case("recomputed", {"train": {"backward": "recompute", "micro_batch": 3}}),
    Case("unclipped", {"optim": {"clip": 0.0}}),
]  # fmt: skip
