"""The front door in Python: ten lines do what the command does.

import steepest
run = steepest.train("corpus.txt", time="10m")
print(run.metrics["bits_per_byte"])
print(run.generate("Once upon a time", max_tokens=200))
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steepest.checkpoint import list_checkpoints, load_checkpoint, newest_whole
from steepest.config import build, dump_toml, load_toml, override, parse_count, parse_duration
from steepest.data import default_cache
from steepest.data.builtin import BUILTIN
from steepest.data.examples import Examples
from steepest.errors import CheckpointError, ConfigError
from steepest.export import export_hugging_face
from steepest.model import Transformer
from steepest.model.generate import generate
from steepest.objectives import NextToken, Objective
from steepest.planning import choose, limit_vocabulary
from steepest.runs import FORMAT, RunFolder, check_new_name, create_run, open_run, write_atomically
from steepest.tokenizer import Tokenizer
from steepest.train.evaluate import evaluate
from steepest.train.kinds import Kind, kind_of
from steepest.train.run import Listener, RunConfig, compose
from steepest.train.session import Result, Session
from steepest.train.state import TrainState

RUNS = Path("runs")


def _silent(name: str, fields: dict[str, Any]) -> None:
    """Listen to nothing."""


@dataclass
class TrainedRun:
    """A run's chosen weights, ready to use.

    Attributes:
        folder: the run folder.
        step: the step the weights are from.
        result: what the session that made it reached, if it was trained just now.
    """

    folder: RunFolder
    config: RunConfig
    kind: Kind
    objective: Objective
    step: int
    result: Result | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer; a table has none."""
        tokenizer = getattr(self.kind, "tokenizer", None)
        if not isinstance(tokenizer, Tokenizer):
            raise ConfigError(
                f"run {self.folder.name} has no tokenizer: its objective is {self.config.objective.kind}"
            )
        return tokenizer

    @property
    def metrics(self) -> dict[str, float]:
        """Held-out metrics of the run just trained (``evaluate`` makes them anew)."""
        return self.result.metrics if self.result else {}

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """Continue a prompt; the text that comes after it is returned."""
        return "".join(
            self.stream(
                prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
            )
        )

    def stream(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Like ``generate``, but piece by piece, as soon as a piece is whole UTF-8."""
        if not isinstance(self.objective, NextToken):
            raise ConfigError(
                f"run {self.folder.name} does not write text: its objective is {self.config.objective.kind}, "
                "generate needs next-token"
            )
        self.objective.eval()
        ids = [self.tokenizer.end_of_text, *self.tokenizer.encode(prompt).tolist()]
        tokens = generate(
            self.objective.trunk,
            self.objective.head,
            ids,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=torch.Generator().manual_seed(seed),
            stop=(self.tokenizer.end_of_text,),
        )
        return self.tokenizer.decode_stream(tokens)

    def export(self, folder: Path | str) -> float | None:
        """Write a Hugging Face folder; the largest difference of a logit, if transformers is there to tell."""
        if not isinstance(self.objective, NextToken):
            raise ConfigError(
                f"run {self.folder.name} cannot be exported: its objective is {self.config.objective.kind}, and the "
                "stock class predicts the next token"
            )
        return export_hugging_face(self.objective.trunk, self.objective.head, self.tokenizer, Path(folder))

    def evaluate(
        self, sources: Sequence[str] = (), *, cache: Path | None = None, listen: Listener = _silent
    ) -> dict[str, float]:
        """Metrics on what the run held out, or on other data, whole."""
        place = _cache(cache)
        if sources:
            batches = self.kind.batches_of([str(source) for source in sources], self.config, place, listen)
        else:
            examples = self.kind.examples(self.folder, self.config, place, listen)
            batches = examples.held_out_batches(self.config.batches, context=self.config.model.context)
        return evaluate(self.objective, batches)


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
    listen: Listener = _silent,
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
        listen: called with every event's name and fields.
        started: ``time.monotonic()`` when the command began (now, if not given).

    Raises:
        SteepestError: for anything the caller can mend, before anything is written.
    """
    began = _now() if started is None else started
    runs = Path(runs)
    if name is not None:
        check_new_name(runs, name)
    values = load_toml(Path(config)) if isinstance(config, str | Path) else dict(config or {})
    values = _without_format(values)  # a run.toml may be given as it is
    if sources:
        values["data"] = {**values.get("data", {}), "sources": [_absolute(str(source)) for source in sources]}
    budget = {
        "time": parse_duration(time) if isinstance(time, str) else time,
        "steps": steps,
        "tokens": parse_count(tokens) if isinstance(tokens, str) else tokens,
        "epochs": epochs,
    }
    if any(value is not None for value in budget.values()):
        others = {key: value for key, value in values.get("train", {}).items() if key not in budget}
        values["train"] = {**others, **{key: value for key, value in budget.items() if value is not None}}
    values["train"] = {**values.get("train", {}), **({} if memory is None else {"memory": memory})}
    given = limit_vocabulary(build(RunConfig, override(values, overrides)))
    kind, given, examples = kind_of(given).prepare(given, _cache(cache), listen)
    planned = kind.plan(given, examples, started=began, listen=listen)
    resolved, plan = planned or choose(given, examples, kind, started=began, listen=listen)
    state = compose(resolved, examples, kind.objective)
    folder = create_run(runs, name)
    write_atomically(folder.config, dump_toml(resolved, header={"format": FORMAT}))
    kind.save(folder)
    folder.write_json(folder.plan, {**plan, "examples": str(examples.path.absolute())})
    listen("run", {"folder": folder, "config": resolved, "plan": plan})
    session = Session(resolved, folder, state, examples, kind, started=began, listen=listen)
    with folder.lock():
        result = session.run()
    return TrainedRun(folder, resolved, kind, state.objective, result.best_step, result)


def resume(
    run: str | Path,
    *,
    runs: Path | str = RUNS,
    cache: Path | str | None = None,
    listen: Listener = _silent,
    started: float | None = None,
) -> TrainedRun:
    """Go on with an interrupted run from its newest whole checkpoint, bit for bit."""
    began = _now() if started is None else started
    folder = open_run(run, Path(runs))
    config = load_run_config(folder)
    with folder.lock():
        path, notes = newest_whole(folder.checkpoints)
        parts = _restore(folder, config, path, cache=cache, listen=listen)
        for note in notes:
            folder.append_event("checkpoint passed over", reason=note)
            listen("event", {"event": "checkpoint passed over", "reason": note})
        folder.append_event("resumed", step=parts.state.step, seconds=parts.state.seconds)
        return _go_on(folder, config, parts, listen=listen, began=began)


def rewind(
    run: str | Path,
    *,
    to: int,
    overrides: Iterable[str] = (),
    new_name: str | None = None,
    go_on: bool = True,
    runs: Path | str = RUNS,
    cache: Path | str | None = None,
    listen: Listener = _silent,
    started: float | None = None,
) -> TrainedRun | RunFolder:
    """Go back to the newest whole checkpoint at or before a step, change what was a mistake, train on.

    What is abandoned moves to ``history/``; with ``new_name`` the old run stays untouched and a copy goes on.
    """
    began = _now() if started is None else started
    runs = Path(runs)
    folder = open_run(run, runs)
    config = build(RunConfig, override(_without_format(load_toml(folder.config)), overrides))
    if new_name is not None:
        check_new_name(runs, new_name)
    checkpoint = _checkpoint_at(folder, to)
    parts = _restore(
        folder, config, checkpoint, cache=cache, listen=listen
    )  # refuses before anything changes
    step = parts.state.step
    target = folder if new_name is None else create_run(runs, new_name)
    with target.lock():
        if new_name is None:
            _abandon_after(folder, step)
        else:
            _copy(folder, checkpoint, target)
            parts.kind.save(target)
        write_atomically(target.config, dump_toml(config, header={"format": FORMAT}))
        target.append_event("rewound", asked=to, to=step, changes=list(overrides), origin=folder.name)
        listen("rewound", {"folder": target, "to": step, "asked": to})
        return _go_on(target, config, parts, listen=listen, began=began) if go_on else target


def load(run: str | Path, *, runs: Path | str = RUNS, step: int | None = None) -> TrainedRun:
    """Open a run for use: its best checkpoint by target metric, or the one at ``step``."""
    folder = open_run(run, Path(runs))
    config = load_run_config(folder)
    kind = kind_of(config).open(folder, config)
    path = _checkpoint_at(folder, step, exactly=True) if step is not None else _best_checkpoint(folder)
    tensors, record = load_checkpoint(path)
    objective = kind.objective(config, Transformer(config.model))
    objective.load_state_dict(tensors["model"])
    objective.eval()
    return TrainedRun(folder, config, kind, objective, int(record["step"]))


def load_run_config(folder: RunFolder) -> RunConfig:
    """The resolved config of a run."""
    return build(RunConfig, _without_format(load_toml(folder.config)), where=str(folder.config))


def _without_format(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "format"}


@dataclass
class _Parts:
    """What a session needs besides folder and config."""

    state: TrainState
    examples: Examples
    kind: Kind


def _restore(
    folder: RunFolder, config: RunConfig, checkpoint: Path, *, cache: Path | str | None, listen: Listener
) -> _Parts:
    """Compose a run and put a checkpoint back; nothing is written to the run folder."""
    tensors, record = load_checkpoint(checkpoint)
    kind = kind_of(config).open(folder, config)
    examples = kind.examples(folder, config, _cache(cache), listen)
    state = compose(config, examples, kind.objective)
    state.restore(tensors, record, _lost_decisions(folder, int(record["step"])))
    return _Parts(state, examples, kind)


def _go_on(
    folder: RunFolder, config: RunConfig, parts: _Parts, *, listen: Listener, began: float
) -> TrainedRun:
    """Train on from where the parts stand; metric lines beyond that are made again."""
    state, kind = parts.state, parts.kind
    folder.truncate_metrics(state.step)
    plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    listen("run", {"folder": folder, "config": config, "plan": plan, "resumed_at": state.step})
    session = Session(config, folder, state, parts.examples, kind, started=began, listen=listen)
    result = session.run()
    return TrainedRun(folder, config, kind, state.objective, result.best_step, result)


def _lost_decisions(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """What the schedule decided after a step, in a session that was lost; a rewind forgets on purpose."""
    found: list[dict[str, Any]] = []
    for event in folder.read_events():
        if event["event"] == "rewound":
            found = []
        elif "decision" in event and event["step"] > step:
            found.append(event["decision"])
    return found


def _absolute(source: str) -> str:
    """A path that still means the same from another folder; names that are no paths stay."""
    if source == "-" or source.startswith("hf:") or (source in BUILTIN and not Path(source).exists()):
        return source
    return str(Path(source).absolute())


def _cache(cache: Path | str | None) -> Path:
    return Path(cache) if cache else default_cache()


def _checkpoint_at(folder: RunFolder, step: int, *, exactly: bool = False) -> Path:
    """The newest whole checkpoint at or before a step."""
    have = [number for number, _ in list_checkpoints(folder.checkpoints)]
    if step < 0 or (exactly and step not in have) or not [number for number in have if number <= step]:
        raise CheckpointError(
            f"run {folder.name} has no checkpoint at {'' if exactly else 'or before '}step {step}; "
            f"it has {', '.join(map(str, have)) or 'none'}"
        )
    return newest_whole(folder.checkpoints, before=step + 1)[0]


def _best_checkpoint(folder: RunFolder) -> Path:
    """The checkpoint the target metric chose; the newest whole one while a run is unfinished."""
    newest, _ = newest_whole(folder.checkpoints)
    _, record = load_checkpoint(newest)
    best = record["best"].get("step")
    paths = dict(list_checkpoints(folder.checkpoints))
    return paths.get(int(best), newest) if best else newest


def _copy(folder: RunFolder, checkpoint: Path, new: RunFolder) -> None:
    """Begin a new run from another's checkpoint."""
    shutil.copytree(checkpoint, new.checkpoints / checkpoint.name)
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
    if folder.result.exists():
        folder.result.rename(place / "result.json")


def _now() -> float:
    return time.monotonic()
