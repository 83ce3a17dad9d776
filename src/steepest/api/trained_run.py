"""A run, opened for use: its chosen weights, and what can be done with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steepest.checkpoint import list_checkpoints, load_checkpoint, newest_whole
from steepest.config import build, load_toml
from steepest.data import default_cache
from steepest.errors import CheckpointError, ConfigError
from steepest.export import export_hugging_face
from steepest.model import Transformer
from steepest.model.generate import generate
from steepest.objectives import CausalGraph, Classification, Contrastive, NextToken, Objective
from steepest.objectives.causal_model import CausalModel, Reply
from steepest.retrieval.search import Corpus, Hit
from steepest.runs import RunFolder, open_run
from steepest.tokenizer import Tokenizer
from steepest.train.evaluate import measure_all
from steepest.train.judging import Predictions
from steepest.train.kinds import CausalGraphKind, ClassificationKind, ContrastiveKind, Kind, kind_of
from steepest.train.run import Listener, RunConfig
from steepest.train.session import Result

RUNS = Path("runs")


def silent(name: str, fields: dict[str, Any]) -> None:
    """Listen to nothing."""


@dataclass
class TrainedRun:
    """A run's chosen weights, ready to use.

    Attributes:
        folder: the run folder.
        step: the step the weights are from.
        result: what the session that made it reached, if it was trained just now.
        score: what had been predicted beside it, if anything was.
    """

    folder: RunFolder
    config: RunConfig
    kind: Kind
    objective: Objective
    step: int
    result: Result | None = None
    score: dict[str, Any] | None = None

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

    def embed(self, texts: Sequence[str], *, dims: int | None = None) -> npt.NDArray[np.float32]:
        """Embeddings of texts, of length one, float32 (N, D); of a run of contrastive learning.

        Args:
            dims: only the first coordinates, scaled to length one again.
        """
        kind, objective = self._contrastive("embed")
        if dims is not None and not 1 <= dims <= self.config.model.width:
            raise ConfigError(f"dims must lie between 1 and {self.config.model.width}, the width; got {dims}")
        vectors: npt.NDArray[np.float32] = kind.embed(objective, texts, self.config, dims).numpy()
        return vectors

    def search(self, queries: Sequence[str], texts: Sequence[str], *, k: int = 10) -> list[list[Hit]]:
        """For each query the ``k`` nearest texts, best first, by the score that the run was judged by."""
        kind, objective = self._contrastive("search")
        weights_V = objective.fusion_V.cpu()
        if objective.config.form == "scores":  # its weights are of another lexical score: the embedding alone
            weights_V = torch.eye(len(weights_V), dtype=weights_V.dtype)[0]
        corpus = Corpus(texts, kind.embed(objective, texts, self.config), weights_V)
        vectors = kind.embed(objective, queries, self.config)
        return [corpus.search(query, vector, k) for query, vector in zip(queries, vectors, strict=True)]

    def _contrastive(self, verb: str) -> tuple[ContrastiveKind, Contrastive]:
        if not (isinstance(self.objective, Contrastive) and isinstance(self.kind, ContrastiveKind)):
            raise ConfigError(
                f"run {self.folder.name} gives no embeddings: its objective is {self.config.objective.kind}, "
                f"{verb} needs contrastive"
            )
        return self.kind, self.objective

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Labels of texts, and how likely each class is (calibrated on the development part)."""
        if not (isinstance(self.objective, Classification) and isinstance(self.kind, ClassificationKind)):
            raise ConfigError(
                f"run {self.folder.name} gives no labels: its objective is {self.config.objective.kind}, "
                "predict needs classification"
            )
        return self.kind.predict(self.objective, texts, self.config)

    @cached_property
    def causal(self) -> CausalModel:
        """The causal model of a table: its conditionals (network and counts) and its graph."""
        if not (isinstance(self.kind, CausalGraphKind) and isinstance(self.objective, CausalGraph)):
            raise ConfigError(
                f"run {self.folder.name} answers no questions: its objective is {self.config.objective.kind}, "
                "ask and sample need causal-graph"
            )
        self.objective.eval()
        return self.kind.model(self.objective)

    def ask(self, question: str, *, draws: int = 10_000, seed: int = 0) -> Reply:
        """Answer a question such as "recovered | do(treatment=A), stone=large"; see ``CausalModel.ask``."""
        return self.causal.ask(question, draws=draws, seed=seed)

    def sample(self, n: int, *, do: Mapping[str, str] | None = None, seed: int = 0) -> list[dict[str, str]]:
        """Rows from the model, or from the world where some columns are set."""
        return self.causal.sample(n, do=do, seed=seed)

    def evaluate(
        self, sources: Sequence[str] = (), *, cache: Path | None = None, listen: Listener = silent
    ) -> dict[str, float]:
        """Metrics on what the run held out, or on other data, whole; the target metric with its interval."""
        place = cache_folder(cache)
        if sources:
            batches = self.kind.batches_of([str(source) for source in sources], self.config, place, listen)
        else:
            examples = self.kind.examples(self.folder, self.config, place, listen)
            batches = examples.held_out_batches(self.config.batches, context=self.config.model.context)
        parts = measure_all(self.objective, batches)
        return self.objective.metrics(parts) | self.objective.interval(parts)


def load(run: str | Path, *, runs: Path | str = RUNS, step: int | None = None) -> TrainedRun:
    """Open a run for use: its best checkpoint by target metric, or the one at ``step``."""
    folder = open_run(run, Path(runs))
    config = load_run_config(folder)
    kind = kind_of(config).open(folder, config)
    path = checkpoint_at(folder, step, exactly=True) if step is not None else best_checkpoint(folder)
    tensors, record = load_checkpoint(path)
    objective = kind.objective(config, Transformer(config.model))
    objective.load_state_dict(tensors["model"])
    objective.eval()
    return TrainedRun(folder, config, kind, objective, int(record["step"]))


def load_run_config(folder: RunFolder) -> RunConfig:
    """The resolved config of a run."""
    return build(RunConfig, without_format(load_toml(folder.config)), where=str(folder.config))


def without_format(values: dict[str, Any]) -> dict[str, Any]:
    """A ``run.toml`` as the tables of a ``RunConfig``."""
    return {key: value for key, value in values.items() if key != "format"}


def cache_folder(cache: Path | str | None) -> Path:
    """Where encoded text is kept."""
    return Path(cache) if cache else default_cache()


def checkpoint_at(folder: RunFolder, step: int, *, exactly: bool = False) -> Path:
    """The newest whole checkpoint at or before a step."""
    have = [number for number, _ in list_checkpoints(folder.checkpoints)]
    if step < 0 or (exactly and step not in have) or not [number for number in have if number <= step]:
        raise CheckpointError(
            f"run {folder.name} has no checkpoint at {'' if exactly else 'or before '}step {step}; "
            f"it has {', '.join(map(str, have)) or 'none'}"
        )
    return newest_whole(folder.checkpoints, before=step + 1)[0]


def best_checkpoint(folder: RunFolder) -> Path:
    """The checkpoint the target metric chose; the newest whole one while a run is unfinished."""
    newest, _ = newest_whole(folder.checkpoints)
    _, record = load_checkpoint(newest)
    best = record["best"].get("step")
    paths = dict(list_checkpoints(folder.checkpoints))
    return paths.get(int(best), newest) if best else newest
