"""Train, resume, rewind: a budget and a text in, a run out."""

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.api.continuing import Pretraining, parse_pretrain, take_over, with_shape_of
from steepest.api.settings import Settings, absolute
from steepest.api.trained_run import (
    RUNS,
    TrainedRun,
    cache_folder,
    checkpoint_at,
    load_run_config,
    silent,
    without_format,
)
from steepest.checkpoint import list_checkpoints, load_checkpoint, newest_whole
from steepest.config import build, dump_toml, load_toml, override
from steepest.data.examples import Examples
from steepest.errors import ConfigError, RunError
from steepest.planning import (
    LEAST_TIME,
    Circumstances,
    Forecaster,
    Ledger,
    check_plan,
    choose,
    keep_score,
    plan_record,
    read_plan,
    settle_here,
)
from steepest.runs import FORMAT, RunFolder, check_new_name, create_run, open_run, write_atomically
from steepest.train.kinds import Kind, NextTokenKind, kind_of
from steepest.train.loop import Hook
from steepest.train.run import Listener, RunConfig, compose
from steepest.train.session import Session
from steepest.train.state import TrainState


def train(
    *sources: str | Path,
    time: str | float | None = None,
    steps: int | None = None,
    tokens: int | str | None = None,
    epochs: float | None = None,
    memory: int | str | None = None,
    name: str | None = None,
    runs: Path | str = RUNS,
    cache: Path | str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    overrides: Iterable[str] = (),
    plan: Path | str | None = None,
    ladder: bool = True,
    start: str | Path | None = None,
    pretrain: str = "none",
    listen: Listener = silent,
    started: float | None = None,
) -> TrainedRun:
    """Train a model on text within a budget; returns the run, its best weights loaded.

    Args:
        sources: files, folders, globs, "hf:NAME", "python-docs" or "python-stdlib" (the default is "python-docs").
        time: wall clock for everything, such as "10m" (or seconds); or one of ``steps``, ``tokens``, ``epochs``.
        memory: bytes the process may take, such as "2GB"; the batch is split to fit.
        name: the run's name; the next free ``run-001`` ... without one.
        config: a TOML file or a mapping with the tables of ``RunConfig``; what it leaves out is chosen.
        overrides: strings such as "optim.lr=1e-3".
        plan: a plan made earlier (see ``steepest.plan``), to be carried out as it is; it holds budget and settings.
        ladder: plan with a ladder of small runs where the time allows; else the size comes from speed alone.
        start: a run to go on from, whatever its objective was: its trunk and tokenizer are taken over.
        pretrain: "none", "auto" or the share of the budget, such as "20%", in which the next token of the training
            texts is predicted first; auto keeps that only if a short trial of the task does better with it.
        listen: called with every event's name and fields.
        started: ``time.monotonic()`` when the command began (now, if not given).

    Raises:
        SteepestError: for anything the caller can mend, before anything is written.
    """
    began = _now() if started is None else started
    runs, place = Path(runs), cache_folder(cache)
    if name is not None:
        check_new_name(runs, name)
    share = parse_pretrain(pretrain)
    settings = Settings(time, steps, tokens, epochs, memory, config, tuple(overrides))
    if plan is None:
        given = settings.resolve(sources)
        if start is not None:
            given = with_shape_of(given, open_run(start, runs))
        kind, given, examples = kind_of(given).prepare(given, place, listen)
        where = Circumstances(began, cache=place if ladder else None)
        resolved, record = choose(given, examples, kind, where, listen)
        record = plan_record(resolved, record, examples)
        if share != 0:
            before = Pretraining(resolved, kind, examples, runs, place, listen, train)
            resolved, record["pretraining"] = before.run(share, name and f"{name}-pretraining")
    else:
        settings.refuse_beside_a_plan()
        if start is not None or share != 0:
            raise ConfigError("--from and --pretrain are not for a plan made earlier; leave one of them out")
        resolved, record = read_plan(Path(plan))
        if sources:
            resolved = resolved.replace(data=resolved.data.replace(sources=absolute(sources)))
        kind, resolved, examples = kind_of(resolved).prepare(resolved, place, listen)
        check_plan(record, resolved, examples)
        if record.get("machine_factor", 1.0) != 1.0:
            resolved, record["memory"] = settle_here(resolved, examples, kind)
    state = compose(resolved, examples, kind.objective)
    take_over(state.objective, resolved)
    folder = create_run(runs, name)
    write_atomically(folder.config, dump_toml(resolved, header={"format": FORMAT}))
    kind.save(folder)
    folder.write_json(folder.plan, {**record, "examples": str(examples.path.absolute())})
    listen("run", {"folder": folder, "config": resolved, "plan": record})
    with folder.lock():
        return _carry_out(folder, resolved, _Parts(state, examples, kind), place, listen=listen, began=began)


def resume(
    run: str | Path,
    *,
    runs: Path | str = RUNS,
    cache: Path | str | None = None,
    listen: Listener = silent,
    started: float | None = None,
) -> TrainedRun:
    """Go on with an interrupted run from its newest whole checkpoint, bit for bit."""
    began = _now() if started is None else started
    folder = open_run(run, Path(runs))
    config = load_run_config(folder)
    with folder.lock():
        path, notes = newest_whole(folder.checkpoints)
        parts = _restore(folder, config, path, cache=cache, listen=listen)
        total = parts.state.schedule.total_steps
        if folder.result.exists() and total is not None and parts.state.step >= total:
            raise RunError(
                f"run {folder.name} is finished; go back in it with: steepest rewind {folder.name} --to STEP, or start "
                f"another from its weights with: steepest train --from {folder.name}"
            )
        for note in notes:
            folder.append_event("checkpoint passed over", reason=note)
            listen("event", {"event": "checkpoint passed over", "reason": note})
        folder.append_event("resumed", step=parts.state.step, seconds=parts.state.seconds)
        return _go_on(folder, config, parts, cache_folder(cache), listen=listen, began=began)


def rewind(
    run: str | Path,
    *,
    to: int,
    overrides: Iterable[str] = (),
    new_name: str | None = None,
    go_on: bool = True,
    runs: Path | str = RUNS,
    cache: Path | str | None = None,
    listen: Listener = silent,
    started: float | None = None,
) -> TrainedRun | RunFolder:
    """Go back to the newest whole checkpoint at or before a step, change what was a mistake, train on.

    What is abandoned moves to ``history/``; with ``new_name`` the old run stays untouched and a copy goes on.
    """
    began = _now() if started is None else started
    runs = Path(runs)
    folder = open_run(run, runs)
    config = build(RunConfig, override(without_format(load_toml(folder.config)), overrides))
    if new_name is not None:
        check_new_name(runs, new_name)
    checkpoint = checkpoint_at(folder, to)
    parts = _restore(
        folder, config, checkpoint, cache=cache, listen=listen, forget=True
    )  # refuses before anything changes
    step = parts.state.step
    target = folder if new_name is None else create_run(runs, new_name)
    with target.lock():
        if new_name is None:
            _abandon_after(folder, step)
        else:
            _copy(folder, checkpoint, target, best=int(parts.state.best.get("step", step)))
            parts.kind.save(target)
        if parts.state.best.get("step") not in dict(list_checkpoints(target.checkpoints)):
            parts.state.best, parts.state.stale = {}, 0  # a later best, abandoned now, had taken its place
        write_atomically(target.config, dump_toml(config, header={"format": FORMAT}))
        target.append_event("rewound", asked=to, to=step, changes=list(overrides), origin=folder.name)
        listen("rewound", {"folder": target, "to": step, "asked": to})
        if not go_on:
            return target
        return _go_on(target, config, parts, cache_folder(cache), listen=listen, began=began)


@dataclass
class _Parts:
    """What a session needs besides folder and config."""

    state: TrainState
    examples: Examples
    kind: Kind


def _restore(
    folder: RunFolder, config: RunConfig, checkpoint: Path, *, cache: Path | str | None, listen: Listener,
    forget: bool = False,
) -> _Parts:  # fmt: skip
    """Compose a run and put a checkpoint back; nothing is written to the run folder.

    Args:
        forget: what the schedule decided after it, for the run is rewound.
    """
    tensors, record = load_checkpoint(checkpoint)
    kind = kind_of(config).open(folder, config)
    examples = kind.examples(folder, config, cache_folder(cache), listen)
    state = compose(config, examples, kind.objective)
    state.restore(tensors, record, [] if forget else _lost_decisions(folder, int(record["step"])))
    return _Parts(state, examples, kind)


def _go_on(
    folder: RunFolder, config: RunConfig, parts: _Parts, cache: Path, *, listen: Listener, began: float
) -> TrainedRun:
    """Train on from where the parts stand; metric lines beyond that are made again."""
    folder.truncate_metrics(parts.state.step)
    plan = folder.read_plan()
    listen("run", {"folder": folder, "config": config, "plan": plan, "resumed_at": parts.state.step})
    return _carry_out(folder, config, parts, cache, listen=listen, began=began)


def _carry_out(
    folder: RunFolder, config: RunConfig, parts: _Parts, cache: Path, *, listen: Listener, began: float
) -> TrainedRun:
    """Train to the end, with forecasts along the way, and score the promise there."""
    state, kind = parts.state, parts.kind
    plan = folder.read_plan()
    hooks: list[Hook] = []
    long_enough = config.train.time is not None and config.train.time >= LEAST_TIME
    if long_enough and kind_of(config) is NextTokenKind and parts.examples.held_out_tokens:
        hooks.append((1, Forecaster(config, folder, plan, listen)))
    session = Session(config, folder, state, parts.examples, kind, started=began, listen=listen, hooks=hooks)
    result = session.run()
    run = TrainedRun(folder, config, kind, state.objective, result.best_step, result)
    if result.finished:
        run.score = keep_score(folder, config, result, Ledger(cache))
    return run


def _lost_decisions(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """What the schedule decided after a step, in a session that was lost; a rewind forgets on purpose."""
    found: list[dict[str, Any]] = []
    for event in folder.read_events():
        if event["event"] == "rewound":
            found = []
        elif "decision" in event and event["step"] > step:
            found.append(event["decision"])
    return found


def _copy(folder: RunFolder, checkpoint: Path, new: RunFolder, best: int) -> None:
    """Begin a new run from another's checkpoint, and its best one so far."""
    have = dict(list_checkpoints(folder.checkpoints))
    for path in {checkpoint, have.get(best, checkpoint)}:
        shutil.copytree(path, new.checkpoints / path.name)
    for name in ("plan.json", "metrics.jsonl", "events.jsonl"):
        if (folder.path / name).exists():
            shutil.copy2(folder.path / name, new.path / name)


def _abandon_after(folder: RunFolder, step: int) -> None:
    """Move what came after a step to ``history/``: checkpoints, metric lines, config and result."""
    number = len(list(folder.history.glob("*"))) + 1
    place = folder.history / f"{number:03d}-after-step-{step:06d}"
    place.mkdir(parents=True)
    shutil.copy2(folder.config, place / "run.toml")
    if folder.metrics.exists():
        shutil.copy2(folder.metrics, place / "metrics.jsonl")
        folder.truncate_metrics(step)
    for later, path in list_checkpoints(folder.checkpoints):
        if later > step:
            (place / "checkpoints").mkdir(exist_ok=True)
            path.rename(place / "checkpoints" / path.name)
    for told in (folder.result, folder.score):
        if told.exists():
            told.rename(place / told.name)


def _now() -> float:
    return time.monotonic()
