"""Runs of next-token prediction: a corpus of text, its tokenizer, and a sample at the end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from steepest.data import Corpus, evaluation_batches, open_corpus, prepare_corpus
from steepest.data.examples import AnyBatch, Examples
from steepest.errors import DataError
from steepest.model import Transformer
from steepest.model.generate import generate
from steepest.objectives import NextToken, NextTokenConfig, Objective
from steepest.runs import RunFolder
from steepest.tokenizer import Tokenizer
from steepest.train.evaluate import eagerly
from steepest.train.kinds.base import Kind
from steepest.train.run import Listener, RunConfig

CONTEXT = 256  # tokens a sequence, of any text
TRICKY = 'Über "3 < 5";\n\n\tself.x  =  1\n'  # what foreign tokenizers change: case, blanks, signs


@dataclass
class NextTokenKind(Kind):
    """Next-token prediction on a corpus of text.

    Attributes:
        tokenizer: text <-> ids.
        file: where it is kept.
    """

    tokenizer: Tokenizer
    file: Path

    @classmethod
    def prepare(cls, config: RunConfig, cache: Path, listen: Listener) -> tuple[Self, RunConfig, Corpus]:
        """Read, split and tokenize text, or find it as it was left."""
        corpus = _prepare_corpus(config, cache, listen)
        tokenizer = Tokenizer.load(corpus.tokenizer)
        listen("data", {"corpus": corpus, "tokenizer": tokenizer})
        if not tokenizer.lossless(TRICKY):
            listen(
                "event",
                {
                    "event": "the tokenizer does not give a text back as it was; bits per byte are of what is left"
                },
            )
        return cls(tokenizer, corpus.tokenizer), config, corpus

    @classmethod
    def open(cls, folder: RunFolder, config: RunConfig) -> Self:
        """With the run's own tokenizer."""
        return cls(Tokenizer.load(folder.tokenizer), folder.tokenizer)

    def examples(self, folder: RunFolder, config: RunConfig, cache: Path, listen: Listener) -> Corpus:
        """The run's encoded text as it was kept, whatever has become of its sources; encoded again only if it is gone."""
        plan = folder.read_plan()
        try:
            corpus = open_corpus(Path(str(plan.get("examples"))))
        except DataError:
            tokenizer = config.tokenizer.replace(kind=str(self.file), vocab_size="auto")
            corpus = _prepare_corpus(config.replace(tokenizer=tokenizer), cache, listen)
        made_for = plan.get("fingerprint")
        known = made_for.get("data") if isinstance(made_for, dict) else None
        if (
            known not in (None, corpus.content)
            or Tokenizer.load(corpus.tokenizer).fingerprint != self.tokenizer.fingerprint
        ):
            raise DataError(
                f"the data of run {folder.name} has changed since it began, and its encoded text is no longer kept; "
                "put the old data back, or start a new run"
            )
        listen("data", {"corpus": corpus, "tokenizer": self.tokenizer})
        return corpus

    def batches_of(
        self, sources: Sequence[str], config: RunConfig, cache: Path, listen: Listener
    ) -> Iterable[AnyBatch]:
        """Other text, whole, in this run's tokens."""
        tokenizer = config.tokenizer.replace(kind=str(self.file), vocab_size="auto")
        data = config.data.replace(sources=list(sources), validation=0.0)
        corpus = _prepare_corpus(config.replace(data=data, tokenizer=tokenizer), cache, listen)
        return evaluation_batches(
            corpus.train, context=config.model.context, batch=32, document_mask=config.batches.document_mask
        )

    def shape(self, config: RunConfig) -> dict[str, Any]:
        """The tokenizer's vocabulary."""
        return {"vocab_size": self.tokenizer.vocab_size, "context": CONTEXT}

    def objective(self, config: RunConfig, trunk: Transformer) -> NextToken:
        """A vocabulary head and cross-entropy."""
        assert isinstance(config.objective, NextTokenConfig)
        return NextToken(trunk, self.tokenizer.token_bytes(), config.objective)

    def save(self, folder: RunFolder) -> None:
        """The tokenizer."""
        self.tokenizer.save(folder.tokenizer)

    def write(
        self,
        objective: Objective,
        config: RunConfig,
        tokens: int,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> str:
        """A sample, written by the model from nothing but the end-of-text token."""
        assert isinstance(objective, NextToken)
        was_training = objective.training
        objective.eval()
        end = self.tokenizer.end_of_text
        ids = generate(
            objective.trunk, objective.head, [end], max_tokens=tokens, temperature=0.8,
            top_p=0.95, generator=torch.Generator().manual_seed(config.train.seed), stop=(),
        )  # fmt: skip
        written: list[int] = []
        with eagerly():
            for token in ids:
                written.append(token)
                if out_of_time():
                    break
        objective.train(was_training)
        return self.tokenizer.decode([token for token in written if token != end])

    def conclude(
        self, objective: Objective, examples: Examples, config: RunConfig, out_of_time: Callable[[], bool]
    ) -> dict[str, Any]:
        """A sample."""
        tokens = config.train.sample_tokens
        return {"sample": self.write(objective, config, tokens, out_of_time)} if tokens else {}


def _prepare_corpus(config: RunConfig, cache: Path, listen: Listener) -> Corpus:
    return prepare_corpus(
        config.data,
        config.tokenizer,
        cache,
        progress=lambda stage, done, total: listen(
            "progress", {"stage": stage, "done": done, "total": total}
        ),
    )
