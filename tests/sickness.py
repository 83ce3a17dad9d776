"""Runs made sick on purpose, and healthy ones of many shapes: what the verdicts of ``health/`` are held to.

A fault is planted in the composed parts of a run, before training; nothing in the package knows of it. Used by
``test_verdicts.py`` (some) and by ``benchmarks/health.py`` (all).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.config import build
from steepest.planning import choose
from steepest.runs import RunFolder, create_run
from steepest.train.kinds import kind_of
from steepest.train.run import RunConfig, compose
from steepest.train.session import Session
from steepest.train.state import TrainState

Fault = Callable[[TrainState], None]
BASE: dict[str, dict[str, Any]] = {
    "tokenizer": {"kind": "bytes"},
    "model": {"depth": 4, "width": 48, "head_dim": 16, "context": 48},
    "batches": {"batch_tokens": 480},
    "train": {"threads": 1, "sample_tokens": 0, "steps": 150, "evaluations": 10, "device": "cpu"},
    "health": {"every": 15},
}


@dataclass(frozen=True)
class Case:
    """A run: its settings beside ``BASE``, and what is wrong with it."""

    name: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kind: str | None = None  # the verdict that must be given
    fault: Fault = lambda state: None
    text_bytes: int | None = None  # how much of the text it may use


def train(case: Case, text: str, folder: Path) -> RunFolder:
    """Train a case on some text, below a folder."""
    began = time.monotonic()
    file = folder / f"{case.name}.txt"
    file.write_text(text if case.text_bytes is None else text[: case.text_bytes])
    tables = {name: {**BASE.get(name, {}), **case.settings.get(name, {})} for name in {*BASE, *case.settings}}
    given = build(RunConfig, {**tables, "data": {"sources": [str(file)], **case.settings.get("data", {})}})
    kind, given, examples = kind_of(given).prepare(given, folder / "cache", _silent)
    config, _ = choose(given, examples, kind, started=began, listen=_silent)
    state = compose(config, examples, kind.objective)
    case.fault(state)
    run = create_run(folder / "runs", case.name)
    from steepest.config import dump_toml
    from steepest.runs import FORMAT, write_atomically

    write_atomically(run.config, dump_toml(config, header={"format": FORMAT}))
    try:
        Session(config, run, state, examples, kind, started=began).run()
    except Exception:
        if case.kind is None:
            raise
    return run


def _silent(*_: object) -> None:
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

            def forward(
                h: Tensor, rotation: Any, *, block: Any = block, plain: bool = False, **use: Any
            ) -> Tensor:
                use.pop("index", None)
                return block.feed(block.attend(h, rotation, plain=plain, mask=use.get("mask")), plain=plain)

            block.forward = lambda h, rotation, _f=forward, **use: _f(
                h, rotation, plain=use.get("plain", False), mask=use.get("mask")
            )
        _rebuild(state)

    return plant


class _Nothing(nn.Module):
    def forward(self, x: Tensor, *, plain: bool = False) -> Tensor:
        return x


def _rebuild(state: TrainState) -> None:
    """Parameters that are gone would be missed by the optimiser's names only; nothing to do for the rest."""


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
    """The targets of one step are noise, ten times over."""

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


SICK = [
    Case("vanishing", {"model": {"depth": 8}}, "vanishing gradient", no_residual(0.5, normed=False)),
    Case("vanishing-shallow", {"model": {"depth": 5}}, "vanishing gradient", no_residual(0.3, normed=False)),
    Case("exploding", {"model": {"depth": 16}}, "exploding gradient", no_residual(0.7, normed=True)),
    Case("exploding-no-norm", {"model": {"depth": 8}, "optim": {"lr": 1e-4}}, "exploding gradient", growing_stream(1.5)),
    Case("dead-layer", {}, "dead layer", silent_attention(2)),
    Case("dead-mlp", {}, "dead layer", silent_mlp(1, 1.0)),
    Case("dead-units", {}, "dead units", silent_mlp(3, 0.6)),
    Case("rate-too-high", {"optim": {"optimizer": "adamw", "lr": 0.2}}, "rate too high"),
    Case("rate-too-high-muon", {"optim": {"lr": 0.5}}, "rate too high"),
    Case("rate-too-low", {"optim": {"optimizer": "adamw", "lr": 3e-5}}, "rate too low"),
    Case("rate-too-low-muon", {"optim": {"lr": 1e-4}}, "rate too low"),
    Case("clipping", {"optim": {"clip": 0.02}}, "clipping on every step"),
    Case("logits", {}, "attention logits growing", every_step(sharpen)),
    Case("collapse", {}, "embeddings collapsing", every_step(collapse)),
    Case("over-fitting", {"train": {"steps": 300}, "optim": {"weight_decay": 0.0}, "data": {"validation": 0.3}}, "over-fitting",
         text_bytes=4000),
    Case("spike", {}, "loss spike", bad_batch(100)),
    Case("spike-unguarded", {"optim": {"spike_sigmas": 1e9}}, "loss spike", bad_batch(90)),
    Case("overflow", {}, "non-finite steps", overflow(60, 7)),
]  # fmt: skip


def _model(**fields: Any) -> dict[str, dict[str, Any]]:
    return {"model": fields}


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
    Case("short-context", {"model": {"context": 12}}),
    Case("adamw", {"optim": {"optimizer": "adamw"}}),
    Case("sgd", {"optim": {"optimizer": "sgd"}, "train": {"steps": 250}}),
    Case("cosine", {"optim": {"schedule": "cosine", "optimizer": "adamw", "warmup": 0.1}}),
    Case("constant", {"optim": {"schedule": "constant"}}),
    Case("no-decay", {"optim": {"weight_decay": 0.0}}),
    Case("bpe", {"tokenizer": {"kind": "bpe", "vocab_size": 512}}),
    Case("small-batch", {"batches": {"batch_tokens": 144}, "train": {"steps": 300}}),
    Case("recomputed", {"train": {"backward": "recompute", "micro_batch": 3}}),
    Case("unclipped", {"optim": {"clip": 0.0}}),
]  # fmt: skip
