"""Runs of contrastive learning: a table of pairs, an encoder that begins as an IDF-weighted bag, lexical baselines."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.data.examples import AnyBatch, Examples
from steepest.data.formats import NoColumnError
from steepest.data.pair_batches import EncodedPairs, PairExamples, batches_in_order, batches_of_texts
from steepest.data.pair_split import PairSplit, split_pairs
from steepest.data.pairs import PairTable, read_pairs
from steepest.errors import ConfigError, DataError
from steepest.model import Transformer
from steepest.objectives import Contrastive, ContrastiveConfig, Objective
from steepest.objectives.retrieval_metrics import DEFAULT, figure, interval
from steepest.retrieval.baselines import lexical_baselines
from steepest.retrieval.truth import VIEWS, Truth
from steepest.runs import RunFolder
from steepest.tokenizer import Tokenizer, make_tokenizer
from steepest.tokenizer.bpe import train_up_to
from steepest.train.evaluate import evaluate
from steepest.train.kinds.base import Kind
from steepest.train.run import Listener, RunConfig

LONGEST = 128  # tokens of a text, unless a longer context is asked for
MOST_TOKENS, BYTES_A_TOKEN = 8192, 64  # of the vocabulary: all words that come often
WIDTH = 512  # of an encoder without blocks
BATCH_ROWS = 1024  # of a step: the more rows, the more negatives
LR, EMBEDDING_LR = 4e-3, 12.0  # of blocks, tokens' weights and temperature; times more, of tokens' vectors
EVALUATIONS, PATIENCE = 24, 8
SECONDS_AN_EVALUATION = 15.0  # of the time, at least, for an evaluation takes one or two
SCORES = ("cosine", *VIEWS)  # that are fused


@dataclass
class ContrastiveKind(Kind):
    """Contrastive learning on a table of pairs, classes or scores.

    Attributes:
        tokenizer: text <-> ids, made from training texts only.
        idf_V: weight of each token at first; ``None`` for a run that is opened.
        width: texts of a row.
        training_texts: for next-token training first, which only blocks can use.
        test: rows to be judged on at the end, if any.
        facts: what is said of the data and of the baselines, for ``result.json``.
    """

    tokenizer: Tokenizer
    idf_V: npt.NDArray[np.float32] | None = None
    width: int = 2
    training_texts: Sequence[str] = ()
    test: Truth | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    own_probe: ClassVar[bool] = True
    most_epochs: ClassVar[int | None] = 60
    ladder: ClassVar[bool] = False

    @classmethod
    def prepare(
        cls, config: RunConfig, cache: Path, listen: Listener
    ) -> tuple[Self, RunConfig, PairExamples]:
        """Read and split the table, make the tokenizer, score the baselines."""
        split, dev, test = _read(config)
        asked = _objective_config(config)
        form = split.train.form
        asked = asked.replace(
            form=form, columns=list(split.train.columns), metric=asked.metric or DEFAULT[form],
            **{name: str(Path(path).expanduser().absolute()) for name in ("dev", "test") if (path := getattr(asked, name))},
        )  # fmt: skip
        texts = [text for row in split.train.texts for text in row if text]
        tokenizer = _tokenizer(config, texts)
        context = config.model.context if "context" in config.model.model_fields_set else LONGEST
        train = EncodedPairs.encode(split.train, tokenizer, context)
        data = config.data.replace(validation=split.share)
        settled = _settled(config.replace(objective=asked, data=data), train, context)
        layers = config.model.depth if "depth" in config.model.model_fields_set else 0
        kind = cls(tokenizer, _idf(train, tokenizer.vocab_size), split.train.width, texts if layers else ())
        examples = kind._examples(settled, split, dev, train)
        kind.facts = {
            "rows": {"train": len(split.train), "held_out": len(examples.held_out)},
            "notes": _notes(split),
        }
        _tell(listen, split, len(examples.held_out), tokenizer)
        if test is not None:
            kind.test = Truth(
                test, texts, development=False, encoded=EncodedPairs.encode(test, tokenizer, context)
            )
        metric = asked.metric or DEFAULT[form]
        parts = {"development": examples.truth, "test": kind.test}
        kind.facts["judged"] = {
            name: _scored(truth, metric) for name, truth in parts.items() if truth is not None
        }
        for judged in list(kind.facts["judged"].values())[-1:]:
            listen("baselines", {"judged": judged, "metric": metric})
        return kind, settled, examples

    @classmethod
    def open(cls, folder: RunFolder, config: RunConfig) -> Self:
        """With the run's own tokenizer."""
        kept = json.loads((folder.path / "pairs.json").read_text(encoding="utf-8"))
        kind = cls(Tokenizer.load(folder.tokenizer), None, int(kept["width"]))
        kind.facts = kept["facts"]
        return kind

    def examples(self, folder: RunFolder, config: RunConfig, cache: Path, listen: Listener) -> PairExamples:
        """The run's rows, read anew; what has changed since is found by their fingerprint."""
        split, dev, test = _read(config)
        _tell(listen, split, len(dev or split.held_out), self.tokenizer)
        train = EncodedPairs.encode(split.train, self.tokenizer, config.model.context)
        if test is not None:
            encoded = EncodedPairs.encode(test, self.tokenizer, config.model.context)
            self.test = Truth(test, _texts(split.train), development=False, encoded=encoded)
        return self._examples(config, split, dev, train)

    def batches_of(
        self, sources: Sequence[str], config: RunConfig, cache: Path, listen: Listener
    ) -> Iterable[AnyBatch]:
        """Another table of the same form, to be judged on whole."""
        objective = _objective_config(config)
        table = _like(read_pairs(sources, columns=objective.columns, form=objective.form), config, self.width)
        encoded = EncodedPairs.encode(table, self.tokenizer, config.model.context)
        truth = Truth(table, (), development=False, encoded=encoded)
        return batches_in_order(encoded, context=config.model.context, truth=truth)

    def shape(self, config: RunConfig) -> dict[str, Any]:
        """No blocks, wide, unless a depth is asked for."""
        shape: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size, "context": LONGEST}
        if "depth" not in config.model.model_fields_set:
            shape |= {"depth": 0, "width": WIDTH}
        return shape

    def objective(self, config: RunConfig, trunk: Transformer) -> Contrastive:
        """An encoder whose tokens weigh their IDF at first."""
        idf_V = None if self.idf_V is None else torch.from_numpy(self.idf_V)
        return Contrastive(trunk, _objective_config(config), idf_V)

    def save(self, folder: RunFolder) -> None:
        """The tokenizer, and what was found in the data."""
        self.tokenizer.save(folder.tokenizer)
        folder.write_json(folder.path / "pairs.json", {"width": self.width, "facts": self.facts})

    def seconds_to_conclude(self, config: RunConfig) -> float:
        """The test's queries, as fast as the first few of them."""
        if self.test is None:
            return 0.0
        truth, began = self.test, time.perf_counter()
        z_BD = torch.zeros(len(truth.encoded.ids), config.model.width)
        share = truth.first_block(z_BD, torch.ones(len(SCORES), dtype=torch.float64))
        return 1.5 * (time.perf_counter() - began) / share + 1.0

    def conclude(
        self, objective: Objective, examples: Examples, config: RunConfig, out_of_time: Callable[[], bool]
    ) -> dict[str, Any]:
        """Intervals of the target metric, the test's figures beside the baselines, and who wins."""
        assert isinstance(objective, Contrastive) and isinstance(examples, PairExamples)
        metric, facts = objective.metric, dict(self.facts)
        judged = {part: dict(named) for part, named in facts.get("judged", {}).items()}
        if examples.truth is not None and objective.judged is not None:
            judged.setdefault("development", {})["steepest"] = _told(objective, examples.truth)
            facts["warnings"] = objective.warnings(objective.found)
        if self.test is not None:
            began = time.perf_counter()
            batches = batches_in_order(self.test.encoded, context=config.model.context, truth=self.test)
            evaluate(objective, batches)
            seconds = round(time.perf_counter() - began, 2)
            judged.setdefault("test", {})["steepest"] = _told(objective, self.test) | {"seconds": seconds}
        facts |= {"judged": judged, "weights": dict(zip(SCORES, objective.fusion_V.tolist(), strict=True))}
        if judged:
            named = judged.get("test", judged.get("development", {}))
            facts["winner"] = max(named, key=lambda name: (named[name][metric], name == "steepest"))
        return facts

    # -- using a run ----------------------------------------------------------------------------------

    def embed(
        self, objective: Contrastive, texts: Sequence[str], config: RunConfig, dim: int | None = None
    ) -> Tensor:
        """Embeddings of texts, float32 (N, D), of length one, in their order."""
        objective.eval()
        device = objective.log_scale.device
        parts = [
            objective.embed(batch.to(device), dim).cpu()
            for batch in batches_of_texts(texts, self.tokenizer, config.model.context)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dim or config.model.width)

    def _examples(
        self, config: RunConfig, split: PairSplit, dev: PairTable | None, train: EncodedPairs
    ) -> PairExamples:
        table = split.held_out if dev is None else dev
        held_out = EncodedPairs.encode(table, self.tokenizer, config.model.context)
        truth = Truth(table, _texts(split.train), development=True, encoded=held_out) if len(table) else None
        return PairExamples(Path(config.data.sources[0]), train, held_out, truth)


def _objective_config(config: RunConfig) -> ContrastiveConfig:
    assert isinstance(config.objective, ContrastiveConfig)
    return config.objective


def _read(config: RunConfig) -> tuple[PairSplit, PairTable | None, PairTable | None]:
    """The table a config names, parted without leaks, and the rows to choose by and to be judged on."""
    objective = _objective_config(config)
    if "sources" not in config.data.model_fields_set:
        raise ConfigError(
            "contrastive learning needs a table of pairs: give a TSV, CSV, JSON lines or Parquet file with --data"
        )

    def read(paths: Sequence[str], columns: Sequence[str] = tuple(objective.columns)) -> PairTable:
        return read_pairs(paths, columns=columns, form=objective.form)

    table = read(config.data.sources)
    others = {}
    for name in ("dev", "test"):
        if path := getattr(objective, name):
            try:
                others[name] = read([path])
            except NoColumnError:  # columns of its own names, which are found as the table's were
                others[name] = read([path], ())
    for name, other in others.items():
        if (other.form, other.width) != (table.form, table.width):
            raise DataError(
                f"{other.label} ({name}) holds {other.form} with {other.width} texts a row, {table.label} "
                f"{table.form} with {table.width}; they must be alike"
            )
    share = config.data.validation if "validation" in config.data.model_fields_set else None
    split = split_pairs(
        table,
        0.0 if "dev" in others else share,
        others=list(others.values()),
        remove_leaks=not objective.keep_leaks,
    )
    return split, others.get("dev"), others.get("test")


def _like(table: PairTable, config: RunConfig, width: int) -> PairTable:
    objective = _objective_config(config)
    if table.form != objective.form or (table.width != width and table.form != "pairs"):
        raise DataError(f"{table.label} holds {table.form}; this run was trained on {objective.form}")
    return table


def _texts(table: PairTable) -> list[str]:
    return [text for row in table.texts for text in row if text]


def _tokenizer(config: RunConfig, texts: Sequence[str]) -> Tokenizer:
    n_bytes = sum(len(text.encode()) for text in texts)
    tokenizer = config.tokenizer
    if tokenizer.kind == "auto" and tokenizer.vocab_size == "auto":
        return train_up_to(texts, max(512, min(MOST_TOKENS, n_bytes // BYTES_A_TOKEN)))
    return make_tokenizer(tokenizer, lambda: texts, n_bytes)


def _idf(train: EncodedPairs, vocab_size: int) -> npt.NDArray[np.float32]:
    """BM25's IDF of every token, over the training texts."""
    n = len(train.ids)
    text = np.repeat(np.arange(n, dtype=np.int64), train.ids.lengths)
    seen = np.unique(text * vocab_size + train.ids.tokens) % vocab_size
    holders = np.bincount(seen, minlength=vocab_size)
    idf_V: npt.NDArray[np.float32] = np.log(1 + (n - holders + 0.5) / (holders + 0.5)).astype(np.float32)
    return idf_V


def _settled(config: RunConfig, train: EncodedPairs, context: int) -> RunConfig:
    """What was left open and depends on the data: batch, rate, how often to look, when to stop."""
    batches, optim, training = config.batches, config.optim, config.train
    if batches.batch_tokens is None:
        distinct = len(np.unique(train.numbers_NK[:, -1 if train.form == "classes" else 1 % train.width]))
        rows = min(BATCH_ROWS * 2 // train.width, max(2, distinct // 2))
        batches = batches.replace(batch_tokens=rows * train.width * context)
    if optim.lr is None:
        optim = optim.replace(lr=LR)
        if "embedding_lr" not in optim.model_fields_set:
            optim = optim.replace(embedding_lr=EMBEDDING_LR)
    if training.compile is None:  # batches of every length: each would be compiled anew
        training = training.replace(compile=False)
    if "patience" not in training.model_fields_set:
        training = training.replace(patience=PATIENCE)
    if "evaluations" not in training.model_fields_set:
        often = (training.time or math.inf) / SECONDS_AN_EVALUATION
        training = training.replace(evaluations=int(max(5, min(EVALUATIONS, often))))
    return config.replace(batches=batches, optim=optim, train=training)


def _notes(split: PairSplit) -> list[str]:
    """What was done to the rows, in words."""
    notes = []
    if split.train.empty:
        notes.append(f"{split.train.empty:,} rows with an empty text are left out")
    if split.duplicates:
        notes.append(f"{split.duplicates:,} rows are the same as an earlier one and left out")
    if split.leaked:
        what = "taken out of training" if split.removed else "left in (keep_leaks)"
        notes.append(f"{split.leaked:,} rows to train on are also in the rows to be judged on: {what}")
    return notes


def _tell(listen: Listener, split: PairSplit, held_out: int, tokenizer: Tokenizer) -> None:
    listen("pairs", {"split": split, "held_out": held_out, "tokenizer": tokenizer, "notes": _notes(split)})


def _told(objective: Contrastive, truth: Truth) -> dict[str, Any]:
    """What the last evaluation found, with its interval."""
    assert objective.judged is not None
    found = interval(objective.judged, truth, objective.metric)
    return {**objective.found, "interval": found, "rows": len(truth.table)}


def _scored(truth: Truth, metric: str) -> dict[str, Any]:
    """The baselines' figures on the rows that the run is judged on, by name."""
    return {
        one.name: {
            metric: figure(one.judged, truth, metric), "interval": interval(one.judged, truth, metric),
            "rows": len(truth.table), "seconds": round(one.seconds, 2),
        }
        for one in lexical_baselines(truth)
    }  # fmt: skip
