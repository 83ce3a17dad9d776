"""Go on from another run's weights, and next-token training of a task's own texts before the task.

    steepest train --from RUN ...             the trunk and tokenizer of any run, whatever its objective was
    steepest train --pretrain 20% ...         next-token prediction of the training texts for that share of the budget
    steepest train --pretrain auto ...        the same for a tenth, kept only if a short trial of the task does better
                                              with it on the development part than one without

Source: K. Krishna et al., "Downstream Datasets Make Surprisingly Good Pretraining Corpora",
https://arxiv.org/abs/2209.14389.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from steepest.api.trained_run import best_checkpoint, load_run_config
from steepest.checkpoint import load_checkpoint
from steepest.config import build
from steepest.data.examples import Examples
from steepest.errors import ConfigError
from steepest.model import TransformerConfig
from steepest.objectives import Objective
from steepest.runs import RunFolder, create_run, open_run, write_atomically
from steepest.tokenizer import Tokenizer
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, TrainConfig, compose
from steepest.train.session import Session

AUTO_SHARE, TRIAL_SHARE = 0.1, 0.05  # of the budget
OWN = {"vocab_size", "context", "dropout"}  # what a run decides for itself when it goes on from another


def with_shape_of(given: RunConfig, folder: RunFolder) -> RunConfig:
    """A config that can go on from a run: its tokenizer, its trunk's shape.

    Raises:
        ConfigError: the run has no tokenizer, or the config asks for another shape.
    """
    if not folder.tokenizer.exists():
        raise ConfigError(f"run {folder.name} has no tokenizer: its weights cannot read text")
    there = load_run_config(folder).model.model_dump(exclude=OWN)
    asked = given.model.model_dump(exclude_unset=True, exclude=OWN)
    for name, value in asked.items():
        if there[name] != value:
            raise ConfigError(
                f"--from {folder.name} has {name} {there[name]}, and {value} was asked for; leave one of them out"
            )
    own = given.model.model_dump(exclude_unset=True, include=OWN - {"vocab_size"})
    return given.replace(
        model=build(TransformerConfig, {**there, **own}),
        tokenizer=given.tokenizer.replace(kind=str(folder.tokenizer.absolute()), vocab_size="auto"),
        train=given.train.replace(start=str(folder.path.absolute())),
    )


def take_over(objective: Objective, config: RunConfig) -> None:
    """Put the best weights of the run that a config starts from in, if it does: the trunk's, and the head's too where
    both learn the same thing."""
    if config.train.start is None:
        return
    folder = open_run(config.train.start, Path())
    tensors: dict[str, Tensor] = load_checkpoint(best_checkpoint(folder))[0]["model"]
    there, own = load_run_config(folder).objective, objective.state_dict()
    alike = there.kind == config.objective.kind and _labels(there) == _labels(config.objective)
    for name, mine in own.items():
        if not (name.startswith("trunk.") or alike):
            continue
        if name in tensors and tensors[name].shape == mine.shape:
            own[name] = tensors[name]
        elif name.startswith("trunk."):
            theirs = tuple(tensors[name].shape) if name in tensors else None
            raise ConfigError(
                f"--from {folder.name}: {name} is {theirs} there and {tuple(mine.shape)} here; "
                "the tokenizer and the model's shape must be that run's"
            )
    objective.load_state_dict(own)


def _labels(objective: Any) -> Any:
    return getattr(objective, "labels", None)


def parse_pretrain(text: str) -> float | None:
    """The share of a budget that ``--pretrain`` says; ``None`` for auto.

    >>> parse_pretrain("20%"), parse_pretrain("none"), parse_pretrain("auto")
    (0.2, 0.0, None)
    """
    if text in ("auto", "none"):
        return None if text == "auto" else 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if match is None or not 0 < float(match[1]) < 100:
        raise ConfigError(f'--pretrain takes "auto", "none" or a share such as "20%"; got "{text}"')
    return float(match[1]) / 100


@dataclass
class Pretraining:
    """A run that is composed but not begun, and what it takes to train its trunk on its own texts first.

    Attributes:
        train: ``steepest.train``, handed in, for its file stands on this one.
    """

    config: RunConfig
    kind: Kind
    examples: Examples
    runs: Path
    cache: Path
    listen: Listener
    train: Callable[..., Any]

    def run(self, share: float | None, name: str | None) -> tuple[RunConfig, dict[str, Any]]:
        """Pretrain; returns the config to go on with and what is to be recorded.

        Args:
            share: of the budget; ``None`` tries a tenth, and keeps it if it pays.
            name: of the run that predicts tokens; the next free one if ``None``.
        """
        texts, tokenizer = self.kind.training_texts, getattr(self.kind, "tokenizer", None)
        if not texts or not isinstance(tokenizer, Tokenizer) or self.config.train.start is not None:
            raise ConfigError(
                "--pretrain is for a fresh start on labelled texts; the objective is "
                f"{self.config.objective.kind}{', and --from is given' if self.config.train.start else ''}"
            )
        spent = AUTO_SHARE if share is None else share
        folder = self._next_token(texts, tokenizer, spent, name)
        further = self.config.replace(train=self.config.train.replace(start=str(folder.path.absolute())))
        record: dict[str, Any] = {"run": folder.name, "share": spent, "kept": True}
        if share is None:
            objective, fresh = self._trial(self.config)
            _, pretrained = self._trial(further)
            metric = objective.metric
            record["kept"] = objective.better(pretrained[metric], fresh[metric])
            record["trials"] = {"fresh": fresh, "pretrained": pretrained}
            spent += 2 * TRIAL_SHARE
        chosen = further if record["kept"] else self.config
        if chosen.train.time is None:  # a clock goes on by itself
            chosen = chosen.replace(train=chosen.train.replace(**_part(chosen.train, 1 - spent)))
        self.listen("event", {"event": "pretrained", **{k: v for k, v in record.items() if k != "trials"}})
        return chosen, record

    def _next_token(
        self, texts: Sequence[str], tokenizer: Tokenizer, share: float, name: str | None
    ) -> RunFolder:
        """Next-token prediction of the training texts, with the tokenizer and the shape of the run to come."""
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        digest = hashlib.sha256((lines + tokenizer.fingerprint).encode()).hexdigest()[:16]
        place = self.cache / "pretraining" / digest
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / "texts.jsonl", lines)
        tokenizer.save(place / "tokenizer.json")
        model = self.config.model.model_dump(exclude={"vocab_size", "dropout"})
        kept = ("seed", "threads", "memory", "device", "dtype", "trackers")
        train = {"sample_tokens": 0} | {name: getattr(self.config.train, name) for name in kept}
        config = {"tokenizer": {"kind": str(place / "tokenizer.json")}, "model": model,
                  "train": train | _part(self.config.train, share)}  # fmt: skip
        run = self.train(place / "texts.jsonl", config=config, name=name, runs=self.runs, cache=self.cache,
                         listen=self.listen)  # fmt: skip
        if not run.result.finished:
            raise KeyboardInterrupt
        folder: RunFolder = run.folder
        return folder

    def _trial(self, config: RunConfig) -> tuple[Objective, dict[str, float]]:
        """What a short run of the task reaches on the development part; nothing of it is kept."""
        train = config.train.replace(**_part(config.train, TRIAL_SHARE), evaluations=2, patience=None)
        objective = config.objective
        if "test" in type(objective).model_fields:
            objective = objective.replace(test=None)
        config = config.replace(train=train, objective=objective)
        with tempfile.TemporaryDirectory() as place:
            state = compose(config, self.examples, self.kind.objective)
            take_over(state.objective, config)
            folder = create_run(Path(place), "trial")
            result = Session(config, folder, state, self.examples, self.kind, started=time.monotonic()).run()
        if not result.finished:
            raise KeyboardInterrupt
        return state.objective, result.metrics


def _part(train: TrainConfig, share: float) -> dict[str, Any]:
    """A share of a budget, in its own unit."""
    if train.time is not None:
        return {"time": share * train.time}
    if train.epochs is not None:
        return {"epochs": share * train.epochs}
    unit = "steps" if train.steps is not None else "tokens"
    return {unit: max(1, round(share * (getattr(train, unit) or 0)))}
