"""Runs of causal models: a table and its graph; small networks, cross-fitted, then one on all rows.

The rules for a table of N rows (measured, docs/causal-graphs.md): one block 32 wide and 200 steps below ``FEW_ROWS``,
two blocks and 300 steps from there on; AdamW at 5e-3, with a weight decay that falls as N^(-3/4). Fewer steps where
the time does not buy as many for every fit.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from steepest.data.builtin import BUILTIN
from steepest.data.examples import AnyBatch, Examples
from steepest.data.questions import Questions, TableExamples
from steepest.data.table import Codes, Table, encode_table, listed, load_table, read_table, save_table
from steepest.errors import ConfigError, DataError
from steepest.graph import Graph, read_graph, read_graph_file
from steepest.model import Transformer
from steepest.model.size import n_parameters
from steepest.objectives import Objective
from steepest.objectives.causal_graph import PREDICTED_AT_ONCE, CausalGraph, CausalGraphConfig
from steepest.objectives.causal_model import CausalModel
from steepest.objectives.conditionals import CANDIDATES, Conditionals
from steepest.objectives.counting import Counts, n_cells
from steepest.runs import RunFolder
from steepest.train.cross_fit import CrossFit, cross_fit, summary
from steepest.train.kinds.base import Kind
from steepest.train.run import (
    Listener,
    RunConfig,
    compose,
    resolve_autocast,
    resolve_device,
    sequences_per_step,
    total_steps,
)

FEWEST_STEPS = 30
BATCH = 2048  # questions a step
TRIAL_STEPS = 3
FEW_ROWS, SMALL_FOLDS = 2000, 3  # below so many rows, all are held out once, in so many folds
FITTING_SHARE = 0.8  # of the time left, for all fits together
WIDTH, HEAD_DIM, LR = 32, 16, 5e-3


@dataclass
class CausalGraphKind(Kind):
    """A causal model of a table.

    Attributes:
        graph: over the table's columns.
        table: its rows, columns in the graph's order.
        source: the table's file.
        fitted: weights of counts and network, and held-out figures; ``None`` before cross-fitting.
    """

    graph: Graph
    table: Table
    source: str
    fitted: CrossFit | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, config: RunConfig, cache: Path, listen: Listener
    ) -> tuple[Self, RunConfig, TableExamples]:
        """Read table and graph, and hold them against each other."""
        objective = config.objective
        assert isinstance(objective, CausalGraphConfig)
        source = _one_source(config)
        kind = cls(*check(source, objective), source)
        if objective.graph is None:
            kind.notes.append(
                "no graph was given: every column is taken to be a cause of all columns after it, and do() "
                "answers as if that were so; draw one with --graph"
            )
        else:
            objective = objective.replace(graph=str(Path(objective.graph).absolute()))
        listen("table", {"kind": kind})
        return kind, config.replace(objective=objective), kind._examples()

    @classmethod
    def open(cls, folder: RunFolder, config: RunConfig) -> Self:
        """With the run's own table and graph: the file is not needed again."""
        table, values = load_table(folder.path)
        graph = read_graph(values["graph"], str(folder.path))
        fitted = CrossFit(np.array(values["weights"]), values["held_out"])
        return cls(graph, table, values["source"], fitted, list(values["notes"]))

    def choose(
        self, config: RunConfig, examples: Examples, *, started: float, listen: Listener
    ) -> tuple[RunConfig, dict[str, Any]]:
        """Settle shape, rate and decay by rule, the steps by the time; weigh counts and network by cross-fitting."""
        assert isinstance(examples, TableExamples) and isinstance(config.objective, CausalGraphConfig)
        fits = config.objective.folds or (SMALL_FOLDS if len(self.table) < FEW_ROWS else 1)
        config = self._by_rule(config)
        wanted = config.train.most_steps or steps_by_rule(len(self.table))
        step_seconds = None
        if config.train.time is None:
            steps = total_steps(config, len(examples.questions))
        else:
            step_seconds = self._time_step(config, examples)
            left = FITTING_SHARE * (config.train.time - (time.monotonic() - started))
            steps = min(wanted, int(left / step_seconds / (fits + 1)))
            if steps < FEWEST_STEPS:
                raise ConfigError(
                    f"--time {config.train.time:g}s is too short for this table: a step takes {step_seconds:.2g}s, and "
                    f"{fits} fits on parts of the rows and one on all need {FEWEST_STEPS} each; give more time or steps"
                )
            expected = steps * sequences_per_step(config) * config.model.context
            config = config.replace(train=config.train.replace(most_steps=steps, expected_tokens=expected))
        said = {"fits": fits, "steps": steps}
        listen("cross_fitting", {**said, "done": 0})
        self.fitted = cross_fit(
            config,
            self.table.codes,
            self._questions_of,
            self._bare,
            steps=steps,
            fits=fits,
            until=None if config.train.time is None else started + FITTING_SHARE * config.train.time,
            done=lambda done: listen("cross_fitting", {**said, "done": done}),
        )
        found = summary(self.fitted, self.graph.order)
        listen("cross_fitted", found)
        asked = steps * min(sequences_per_step(config), len(examples.questions))
        record = {
            "parameters": n_parameters(config.model), "steps": steps, "step_seconds": step_seconds, "fits": fits,
            "tokens": asked * config.model.context, "epochs": asked / len(examples.questions), **found,
        }  # fmt: skip
        return config, record

    def examples(self, folder: RunFolder, config: RunConfig, cache: Path, listen: Listener) -> TableExamples:
        """The run's own rows, as they were kept."""
        listen("table", {"kind": self})
        return self._examples()

    def batches_of(
        self, sources: Sequence[str], config: RunConfig, cache: Path, listen: Listener
    ) -> Iterable[AnyBatch]:
        """All rows of other tables with the same columns."""
        for source in sources:
            table = encode_table(source, self.table.schema)
            yield from (
                Questions(table.codes, table.schema.cards, self.graph.contexts)
                .batch()
                .split(PREDICTED_AT_ONCE)
            )

    def shape(self, config: RunConfig) -> dict[str, Any]:
        """Value tokens and one question a column; a question and its context."""
        widest = max(map(len, self.graph.contexts))
        return {"vocab_size": sum(self.table.schema.cards) + len(self.graph), "context": 1 + widest}

    def objective(self, config: RunConfig, trunk: Transformer) -> CausalGraph:
        """One conditional a column; judged as a blend with counts once that is fitted."""
        if self.fitted is None:
            raise ConfigError(
                "a causal model weighs counts and network before it trains: give it a budget, not a plan made earlier"
            )
        objective = self._bare(config, trunk)
        counts = Counts(self._questions_of(self.table.codes))
        objective.blend = Conditionals(counts, objective.predict, self.fitted.weights)
        return objective

    def model(self, objective: CausalGraph) -> CausalModel:
        """What can be asked."""
        assert objective.blend is not None
        return CausalModel(objective.blend, self.graph, self.table)

    def save(self, folder: RunFolder) -> None:
        """Table, graph and weights."""
        assert self.fitted is not None
        extra = {
            "source": self.source, "graph": str(self.graph), "notes": self.notes, "candidates": CANDIDATES,
            "weights": self.fitted.weights.tolist(), "held_out": self.fitted.held_out,
        }  # fmt: skip
        save_table(self.table, folder.path, extra)

    def conclude(
        self, objective: Objective, examples: Examples, config: RunConfig, out_of_time: Callable[[], bool]
    ) -> dict[str, Any]:
        """Held-out figures, from before the last fit, and which part carries which column."""
        assert self.fitted is not None
        found = summary(self.fitted, self.graph.order)
        held_out = found.pop("held_out")
        loss = -held_out["network"] / len(self.graph)
        return {
            "held_out": {"log_likelihood": held_out["blend"], "loss": loss}, "floor": held_out, **found, "rows": len(self.table)
        }  # fmt: skip

    def _bare(self, config: RunConfig, trunk: Transformer) -> CausalGraph:
        assert isinstance(config.objective, CausalGraphConfig)
        return CausalGraph(trunk, self.table.schema.cards, self.graph.contexts, config.objective)

    def _questions_of(self, codes: Codes) -> Questions:
        return Questions(codes, self.table.schema.cards, self.graph.contexts)

    def _examples(self) -> TableExamples:
        return TableExamples(self._questions_of(self.table.codes), Path(self.source))

    def _by_rule(self, config: RunConfig) -> RunConfig:
        """Fill what the user left open."""
        rows = len(self.table)
        model = config.model.replace(
            **{**shape_by_rule(rows), **config.model.model_dump(exclude_unset=True), **self.shape(config)}
        )
        optim = config.optim.model_dump(exclude_unset=True)
        rule = {
            "optimizer": "adamw", "lr": LR, "weight_decay": weight_decay(rows), "betas": (0.9, 0.98),
            "embedding_lr": 1.0, "head_lr": 1.0, "warmup": 0.03,
        }  # fmt: skip
        batch = config.batches.batch_tokens or BATCH * model.context
        given = config.train
        train = given.replace(
            threads=given.threads or 1,
            dtype="float32" if given.dtype == "auto" else given.dtype,
            compile=bool(given.compile),
            micro_batch=given.micro_batch or BATCH,
            evaluations=0,
        )
        return config.replace(
            model=model, optim=config.optim.replace(**{**rule, **optim}),
            batches=config.batches.replace(batch_tokens=batch), train=train,
        )  # fmt: skip

    def _time_step(self, config: RunConfig, examples: TableExamples) -> float:
        """Seconds of a step, from the fastest of a few."""
        torch.set_num_threads(config.train.threads or 1)
        trial = config.replace(train=config.train.replace(time=None, steps=TRIAL_STEPS))
        state = compose(trial, examples, self._bare)
        device = resolve_device(config.train.device)
        seconds = []
        for step in range(TRIAL_STEPS):
            began = time.perf_counter()
            batch = state.batches.at(step).to(device)
            state.objective.accumulate_gradient(
                batch,
                micro_batch=config.train.micro_batch or BATCH,
                autocast=resolve_autocast(config, device),
            )
            state.optimizers.step()
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)[1]


def steps_by_rule(rows: int) -> int:
    """Steps that are enough for a table of so many rows."""
    return 200 if rows < FEW_ROWS else 300


def shape_by_rule(rows: int) -> dict[str, int]:
    """Shape of the trunk for a table of so many rows.

    >>> shape_by_rule(500)
    {'depth': 1, 'width': 32, 'head_dim': 16}
    """
    return {"depth": 1 if rows < FEW_ROWS else 2, "width": WIDTH, "head_dim": HEAD_DIM}


def weight_decay(rows: int) -> float:
    """By rule: strong where rows are few.

    >>> [round(weight_decay(rows), 2) for rows in (500, 5_000, 50_000)]
    [3.0, 0.53, 0.09]
    """
    return 3.0 * math.pow(500 / rows, 0.75)


def check(source: str, config: CausalGraphConfig) -> tuple[Graph, Table]:
    """Read a table and its graph, and hold them against each other; columns come in the graph's order.

    Raises:
        DataError: a column of one is missing in the other; whatever is wrong with either.
    """
    graph, where = None if config.graph is None else read_graph_file(config.graph), config.graph
    table = read_table(source, missing=config.missing, bins=config.bins)
    columns = table.schema.columns
    if odd := [name for name in columns if '"' in name or len(name.splitlines()) != 1]:
        raise DataError(
            f"{source}: column {odd[0]!r} holds a quotation mark or a line break; name it without"
        )
    if graph is None:
        return Graph.complete(columns), table
    absent = [name for name in graph.order if name not in columns]
    if absent:
        raise DataError(
            f'{where}: column "{absent[0]}" is not in {source}, which has {listed(columns)}; add it to the table, or '
            "take it out of the graph and draw what it ties together as a <-> b"
        )
    undrawn = [name for name in columns if name not in graph.order]
    if undrawn:
        raise DataError(
            f'{source}: column "{undrawn[0]}" is not in {where}; draw it there (its name alone in a line says that it '
            "causes nothing and has no cause), or take it out of the table"
        )
    return graph, table.ordered(graph.order)


def describe(graph: Graph, table: Table) -> dict[str, Any]:
    """Cells to be estimated against rows to do it with."""
    return {
        "rows": len(table),
        "columns": len(graph),
        "cells": n_cells(table.schema.cards, graph.contexts),
        "questions": len(Questions(table.codes, table.schema.cards, graph.contexts)),
    }


def _one_source(config: RunConfig) -> str:
    sources = config.data.sources
    if len(sources) != 1 or (sources[0] in BUILTIN and not Path(sources[0]).exists()):
        got = ", ".join(sources) or "none"
        raise ConfigError(
            f"a causal model is trained on one table (CSV, TSV, JSON lines or Parquet); got {got}: give one with --data"
        )
    return sources[0]
