"""Runs of classification: labelled texts, a lexical model to start from, baselines and intervals at the end."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from steepest.data import DataConfig
from steepest.data.examples import AnyBatch, Examples
from steepest.data.labelled import EncodedRows, Labelled, LabelledExamples, read_labelled
from steepest.data.labelled_encoding import context_for, encode_rows, idf_of, tokenizer_for
from steepest.data.labelled_split import LabelledSplit, fingerprint_of, hashes_of, numbers_of, split_labelled
from steepest.errors import CheckpointError, ConfigError, DataError
from steepest.lexical import SHARE, Bag, Effort, LexicalModel, choose_effort, cross_fit, fit_lexical, make_bag
from steepest.model import Transformer
from steepest.objectives import Classification, ClassificationConfig, Objective
from steepest.runs import RunFolder
from steepest.tokenizer import Tokenizer
from steepest.train.evaluate import measure_all
from steepest.train.judging import Predictions, judge, judge_baselines, winner
from steepest.train.kinds.base import Kind
from steepest.train.run import Listener, RunConfig

BATCH = 32  # texts a step
TIMED_ROWS = 200  # of those to be judged at the end, to know how long that will take
DROPOUT = 0.2
EVALUATIONS, PATIENCE = 24, 10
USUAL_TEXT = str(DataConfig.model_fields["text_column"].default)  # which means: find it

Floats = npt.NDArray[np.float32]


@dataclass
class ClassificationKind(Kind):
    """Classification of labelled texts.

    Attributes:
        tokenizer: text <-> ids, made from training texts only.
        lexical: the lexical model that predicts; none if it is switched off.
        offsets: its log-probabilities of the training rows (cross-fitted) and of the development rows.
        idf_V: weight of each token in a text's mean.
        seen: hashes of the training texts, to find them again in data to be judged on.
        data: fingerprint of the split's texts and labels.
        context: tokens of a text, at most.
        facts: what is said of the data and of the baselines, for ``result.json``.
        texts: of the training rows, in a run that is being made.
    """

    tokenizer: Tokenizer
    lexical: LexicalModel | None
    offsets: tuple[Floats, Floats]
    idf_V: Floats
    seen: npt.NDArray[np.int64]
    data: str
    context: int
    facts: dict[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()

    ladder: ClassVar[bool] = False
    most_matrix_parameters: ClassVar[int | None] = 500_000

    @property
    def training_texts(self) -> Sequence[str]:
        """The texts of the training rows, while they are at hand."""
        return self.texts

    @classmethod
    def prepare(
        cls, config: RunConfig, cache: Path, listen: Listener
    ) -> tuple[Self, RunConfig, LabelledExamples]:
        """Read and split the rows, make the tokenizer, fit the lexical model and the baselines."""
        split, test = _read(config)
        config = config.replace(data=config.data.replace(validation=split.share))
        objective = _objective_config(config)
        files = {
            part: str(Path(file).expanduser().absolute())
            for part in ("dev", "test")
            if (file := getattr(objective, part)) is not None
        }
        objective = objective.replace(labels=list(split.names), counts=_counts(split), **files)
        labels_N, classes = numbers_of(split.train, split.names), len(split.names)
        limit = None if config.train.time is None else SHARE * config.train.time
        effort = choose_effort(split.train.texts, labels_N, classes, limit)
        tokenizer = tokenizer_for(split.train.texts, config.tokenizer, strings="strings" in effort.views)
        train_ids = encode_rows(tokenizer, split.train.texts)
        context = (
            config.model.context if "context" in config.model.model_fields_set else context_for(train_ids)
        )
        facts: dict[str, Any] = {
            "rows": {"train": len(split.train), "development": len(split.development)},
            "notes": split.notes,
        }
        listen("labelled", {"split": split, "tokenizer": tokenizer, "test": test})
        began = time.perf_counter()
        fitted = split.train.take(effort.rows)
        bag = make_bag(effort.views, fitted.texts)
        lexical = None
        offsets = _nothing(len(split.train), classes), _nothing(len(split.development), classes)
        if objective.lexical:
            lexical, offsets = _start(bag, split, effort)
        facts["lexical"] = {"seconds": round(time.perf_counter() - began, 2), "views": effort.views,
                            "rows": len(effort.rows)}  # fmt: skip
        parts = {"development": split.development} | ({} if test is None else {"test": test})
        facts["judged"] = {part: {} for part in parts}
        if effort.baselines:
            facts["judged"] = judge_baselines(bag, fitted, parts, split.names, objective.metric)
        facts["judging_seconds"] = _judging_seconds(lexical, parts, split.names, objective.metric)
        listen("baselines", {"judged": facts["judged"]["development"], "metric": objective.metric})
        idf_V = idf_of(train_ids, tokenizer.vocab_size)
        kind = cls(
            tokenizer, lexical, offsets, idf_V, hashes_of(split.train.texts), fingerprint_of(split), context, facts,
            split.train.texts,
        )  # fmt: skip
        return kind, _settled(config, objective, context), kind._examples(config, split)

    @classmethod
    def open(cls, folder: RunFolder, config: RunConfig) -> Self:
        """With the run's own tokenizer and lexical model."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(folder.path / "offsets.safetensors")
            facts = json.loads((folder.path / "labelled.json").read_text(encoding="utf-8"))
            offsets = tensors["train_NC"], tensors["development_NC"]
            idf_V, seen = tensors["idf_V"], tensors["seen"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"run {folder.name}: offsets or labelled.json cannot be read: {error}"
            ) from None
        lexical = LexicalModel.load(folder.path) if _objective_config(config).lexical else None
        tokenizer = Tokenizer.load(folder.tokenizer)
        return cls(tokenizer, lexical, offsets, idf_V, seen, facts.pop("data"), config.model.context, facts)

    def examples(
        self, folder: RunFolder, config: RunConfig, cache: Path, listen: Listener
    ) -> LabelledExamples:
        """The run's rows, read and split again, with the offsets it began with."""
        split, test = _read(config)
        if fingerprint_of(split) != self.data:
            raise DataError(
                f"the data of run {folder.name} has changed since it began; put the old data back, or start a new run"
            )
        listen("labelled", {"split": split, "tokenizer": self.tokenizer, "test": test})
        return self._examples(config, split)

    def batches_of(
        self, sources: Sequence[str], config: RunConfig, cache: Path, listen: Listener
    ) -> Iterable[AnyBatch]:
        """Labelled rows of other files; classes that training did not have count as wrong."""
        objective = _objective_config(config)
        rows = _read_all(sources, config)
        trained = int(np.isin(hashes_of(rows.texts), self.seen).sum())
        if trained:
            listen("event", {"event": f"{trained:,} of these {len(rows):,} texts were trained on: a leak"})
        if unknown := sorted(set(rows.labels) - set(objective.labels)):
            told = ", ".join(f'"{name}"' for name in unknown[:5])
            listen("event", {"event": f"classes that training did not have count as wrong: {told}"})
        return self._encoded(rows, objective).batches(
            context=config.model.context, fill=self.tokenizer.end_of_text
        )

    def predict(self, objective: Classification, texts: Sequence[str], config: RunConfig) -> "Predictions":
        """Calibrated probabilities of texts, in their order."""
        names = tuple(_objective_config(config).labels)
        rows = self._encoded(Labelled(list(texts), [names[0]] * len(texts)), _objective_config(config))
        order = np.argsort(rows.ids.lengths, kind="stable")
        batches = rows.batches(context=config.model.context, fill=self.tokenizer.end_of_text)
        parts = [logits for logits, _, _ in measure_all(objective, batches)]
        probabilities = np.zeros((len(texts), len(names)), dtype=np.float32)
        if parts:
            probabilities[order] = objective.probabilities(torch.cat(parts, dim=1)).numpy()
        return Predictions(names, probabilities)

    def shape(self, config: RunConfig) -> dict[str, Any]:
        """The tokenizer's vocabulary and the length of the texts."""
        return {"vocab_size": self.tokenizer.vocab_size, "context": self.context}

    def objective(self, config: RunConfig, trunk: Transformer) -> Classification:
        """A head for the classes."""
        return Classification(trunk, _objective_config(config), torch.from_numpy(self.idf_V))

    def save(self, folder: RunFolder) -> None:
        """Tokenizer, lexical model, offsets, and what is known of the data."""
        from safetensors.numpy import save_file

        self.tokenizer.save(folder.tokenizer)
        if self.lexical is not None:
            self.lexical.save(folder.path)
        tensors = {"train_NC": self.offsets[0], "development_NC": self.offsets[1], "idf_V": self.idf_V,
                   "seen": self.seen}  # fmt: skip
        save_file(tensors, folder.path / "offsets.safetensors")
        folder.write_json(folder.path / "labelled.json", {"data": self.data, **self.facts})

    def seconds_to_conclude(self, config: RunConfig) -> float:
        """The rows to be judged, as fast as a few of them were when the run began."""
        return 1.2 * float(self.facts.get("judging_seconds", 0.0))

    def conclude(
        self, objective: Objective, examples: Examples, config: RunConfig, out_of_time: Callable[[], bool]
    ) -> dict[str, Any]:
        """The interval of the metric, the test part if there is one, and the baselines beside them."""
        assert isinstance(objective, Classification) and isinstance(examples, LabelledExamples)
        parts: dict[str, Iterable[AnyBatch]] = {
            "development": examples.held_out_batches(config.batches, context=config.model.context)
        }
        if (test := _objective_config(config).test) is not None:
            parts["test"] = self.batches_of([test], config, Path(), lambda name, fields: None)
        metric, judged = objective.metric, self.facts["judged"]
        for name, batches in parts.items():
            measured = measure_all(objective, batches)
            logits_KNC, labels_N = (
                torch.cat([one[0] for one in measured], 1),
                torch.cat([one[1] for one in measured]),
            )
            own = judge(metric, objective.probabilities(logits_KNC), labels_N)
            judged = {**judged, name: {"steepest": own, **judged[name]}}
        lexical, network = objective.blend_K.tolist()
        beside = {name: one for name, one in judged["development"].items() if name != "steepest"}
        return {
            **self.facts,
            "judged": judged,
            "intervals": {metric: judged["development"]["steepest"]["interval"]},
            "baselines": beside,
            "blend": {"lexical": lexical, "network": network},
            "winner": winner(judged, metric, objective.lower_is_better),
        }

    def _encoded(self, rows: Labelled, objective: ClassificationConfig) -> EncodedRows:
        classes = len(objective.labels)
        offset = (
            _nothing(len(rows), classes)
            if self.lexical is None
            else self.lexical.log_probabilities(rows.texts)
        )
        labels_N = numbers_of(rows, objective.labels)
        return EncodedRows(encode_rows(self.tokenizer, rows.texts), labels_N, offset)

    def _examples(self, config: RunConfig, split: LabelledSplit) -> LabelledExamples:
        train, development = (
            EncodedRows(encode_rows(self.tokenizer, rows.texts), numbers_of(rows, split.names), offset_NC)
            for rows, offset_NC in zip((split.train, split.development), self.offsets, strict=True)
        )
        path = Path(config.data.sources[0])
        return LabelledExamples(path, train, development, self.tokenizer.end_of_text, self.data)


def _start(bag: Bag, split: LabelledSplit, effort: Effort) -> tuple[LexicalModel, tuple[Floats, Floats]]:
    """The lexical model that predicts, and what one that knows neither says of training and development rows."""
    classes, texts = len(split.names), split.train.texts
    labels_N = numbers_of(split.train, split.names)
    known, labels_K = [texts[row] for row in effort.rows], labels_N[effort.rows]
    crossed = cross_fit(bag, known, labels_K, classes, strengths=effort.strengths, most_folds=effort.folds)
    fitting = {"strength": crossed.strength, "scale": crossed.scale}
    lexical = fit_lexical(bag, labels_K, classes, **fitting)
    train_NC = _nothing(len(texts), classes)
    train_NC[effort.rows] = crossed.log_probabilities_NC
    rest = np.setdiff1d(np.arange(len(texts)), effort.rows)
    train_NC[rest] = lexical.log_probabilities([texts[row] for row in rest])
    offsets = train_NC, lexical.log_probabilities(split.development.texts)
    if not split.given:  # what predicts may know the rows that chose
        known_names = set(split.names)
        more = split.development.take(
            [row for row, label in enumerate(split.development.labels) if label in known_names]
        )
        both_N = np.concatenate([labels_K, numbers_of(more, split.names)])
        lexical = fit_lexical(bag.extend(more.texts), both_N, classes, **fitting)
    return lexical, offsets


def _objective_config(config: RunConfig) -> ClassificationConfig:
    assert isinstance(config.objective, ClassificationConfig)
    return config.objective


def _read_all(sources: Sequence[str], config: RunConfig) -> Labelled:
    """The rows of some files, one after the other."""
    text = None if config.data.text_column == USUAL_TEXT else config.data.text_column
    label = _objective_config(config).label_column
    parts = [read_labelled(source, text_column=text, label_column=label) for source in sources]
    return Labelled(
        [text for part in parts for text in part.texts], [one for part in parts for one in part.labels]
    )


def _read(config: RunConfig) -> tuple[LabelledSplit, Labelled | None]:
    """The rows a config names, parted without leaks, and the test part."""
    objective, sources = _objective_config(config), config.data.sources
    if "sources" not in config.data.model_fields_set:
        raise ConfigError(
            "classification needs labelled texts: give a TSV, CSV, JSON lines or Parquet file with --data"
        )
    share = config.data.validation if "validation" in config.data.model_fields_set else None
    test = None if objective.test is None else _read_all([objective.test], config)
    split = split_labelled(
        _read_all(sources, config),
        development=None if objective.dev is None else _read_all([objective.dev], config),
        test=test,
        share=share,
        keep_leaks=objective.keep_leaks,
        where=", ".join(sources),
    )
    return split, test


def _judging_seconds(
    lexical: LexicalModel | None, parts: dict[str, Labelled], names: tuple[str, ...], metric: str
) -> float:
    """What judging the parts at the end will take, as fast as a few of their rows: their lexical features, and resamples."""
    development = parts["development"]
    rows = development.take(np.arange(min(len(development), TIMED_ROWS)))
    began = time.perf_counter()
    log_NC = _nothing(len(rows), len(names)) if lexical is None else lexical.log_probabilities(rows.texts)
    judge(metric, torch.from_numpy(np.exp(log_NC)), torch.from_numpy(numbers_of(rows, names)))
    return round((time.perf_counter() - began) * sum(map(len, parts.values())) / len(rows), 2)


def _counts(split: LabelledSplit) -> list[int]:
    counted = Counter(split.train.labels)
    return [counted[name] for name in split.names]


def _nothing(rows: int, classes: int) -> Floats:
    return np.zeros((rows, classes), dtype=np.float32)


def _settled(config: RunConfig, objective: ClassificationConfig, context: int) -> RunConfig:
    """The config with what classification chooses differently from next-token prediction."""
    train, batches = config.train, config.batches
    chosen: dict[str, Any] = {"evaluations": EVALUATIONS, "patience": PATIENCE, "evaluate_tokens": 1 << 40,
                              "compile": False}  # fmt: skip  # every width of a batch would be compiled anew
    chosen = {key: value for key, value in chosen.items() if key not in train.model_fields_set}
    if batches.batch_tokens is None:
        batches = batches.replace(batch_tokens=BATCH * context)
    model = config.model
    if "dropout" not in model.model_fields_set:
        model = model.replace(dropout=DROPOUT)
    return config.replace(objective=objective, model=model, batches=batches, train=train.replace(**chosen))
