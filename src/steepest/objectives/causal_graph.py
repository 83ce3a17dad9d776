"""Causal graphs: every column of a table predicted from its context, and nothing else, by the ordinary trunk.

    p(x) = prod_i p(x_i | T_i),     loss = -log p(x) in nats

A row is 2n tokens, n values and n questions (``data/questions.py``), under ``question_mask``; all at position 0,
where a rotation turns nothing, so that no order is read but the graph's. In that sequence a value's path through
the trunk depends on its id alone, and a question's on its context alone. So a batch is not run as rows of 2n tokens
but as sequences of one token each: every value once, every distinct question once, and the cache hands each
question the keys and values of the tokens that it may see. Same blocks, same function (the tests hold both together),
a hundredth of the work.

Shapes: B questions, P context tokens, T = 1 + P, V value tokens, S = V + B sequences, G key heads, E head width.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from steepest.data.questions import Floats, QuestionBatch
from steepest.data.table import Codes
from steepest.graph import question_mask
from steepest.model import Transformer, VocabularyHead
from steepest.objectives.base import KindConfig, Objective
from steepest.objectives.conditionals import Conditionals
from steepest.objectives.scores import check_metric

METRICS = {"log_likelihood": False, "loss": True}  # whether less is better
PREDICTED_AT_ONCE = 8192  # questions


class CausalGraphConfig(KindConfig):
    """What a causal model can be told."""

    kind: Literal["causal-graph"] = "causal-graph"
    metric: str = Field("log_likelihood", description="of held-out rows: " + ", ".join(METRICS))
    graph: str | None = Field(None, description="file of the graph; none: complete, in the columns' order")
    missing: Literal["drop", "category"] | None = Field(None, description="what to do with empty cells")
    bins: int | None = Field(
        None, ge=2, le=1000, description="quantiles that columns of numbers are cut into"
    )
    folds: int | None = Field(
        None,
        ge=1,
        description="fits with rows held out, to weigh counts and network; none: 3, and 1 from 2,000 rows on",
    )

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        check_metric(metric, METRICS, "causal-graph")
        return metric


class CausalGraph(Objective):
    """One conditional distribution a column; target metric ``log_likelihood``, in nats per row.

    Args:
        trunk: its vocabulary holds all values and one question a column.
        cards: categories of each column.
        contexts: of each column, the columns that its question reads.
        config: see ``CausalGraphConfig``.

    Attributes:
        blend: network and counts together, which is what is judged and asked once there is one.
    """

    own_nV: Tensor
    blend: Conditionals | None = None

    def __init__(
        self,
        trunk: Transformer,
        cards: Sequence[int],
        contexts: Sequence[Sequence[int]],
        config: CausalGraphConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config or CausalGraphConfig()
        self.metric, self.lower_is_better = self.config.metric, METRICS[self.config.metric]
        self.trunk, self.head = trunk, VocabularyHead(trunk)
        self.cards, self.contexts = tuple(cards), tuple(map(tuple, contexts))
        self.start = np.concatenate([[0], np.cumsum(cards)])
        own = torch.zeros(len(cards), sum(cards), dtype=torch.bool)
        for i, (begin, end) in enumerate(zip(self.start, self.start[1:], strict=False)):
            own[i, begin:end] = True
        self.register_buffer("own_nV", own, persistent=False)

    @property
    def n_values(self) -> int:
        """Value tokens, V; the questions' tokens come after them."""
        return int(self.start[-1])

    def log_probabilities(self, ids_BT: Tensor) -> Tensor:
        """Log-probability of every value token for each question, (B, V); minus infinity outside its own column."""
        n_values, device = self.n_values, ids_BT.device
        question_B, context_BP = ids_BT[:, 0], ids_BT[:, 1:]
        tokens_S = torch.cat([torch.arange(n_values, device=device), question_B])
        hidden_SD = self.trunk(
            tokens_S[:, None],
            mask=_mask(n_values, context_BP, question_B),
            positions_BT=torch.zeros(1, dtype=torch.int64, device=device),
            cache=_Context(n_values, context_BP.clamp(max=n_values - 1)),
        )[:, 0]
        return self._own(hidden_SD[n_values:], question_B - n_values)

    def whole_rows(self, codes_Bn: Tensor, *, plain: bool = False) -> Tensor:
        """The same as whole sequences of 2n tokens, slow: (B, n, V). Hooks on the trunk see every token."""
        ids_BT = self.sequence(codes_Bn)
        mask = torch.from_numpy(question_mask(self.contexts))[None].to(ids_BT.device)
        places = torch.zeros(ids_BT.shape[1], dtype=torch.int64, device=ids_BT.device)
        hidden_BTD = self.trunk(ids_BT, mask=mask, positions_BT=places, plain=plain)
        n = len(self.cards)
        columns = torch.arange(n, device=ids_BT.device).expand(len(codes_Bn), n)
        return self._own(hidden_BTD[:, n:], columns)

    def sequence(self, codes_Bn: Tensor) -> Tensor:
        """Rows of category codes as sequences of tokens, (B, 2n): values, then questions."""
        start = torch.from_numpy(self.start[:-1]).to(codes_Bn.device)
        questions = self.n_values + torch.arange(len(self.cards), device=codes_Bn.device)
        return torch.cat([codes_Bn + start, questions.expand(len(codes_Bn), -1)], dim=1)

    def loss(self, batch: QuestionBatch) -> Tensor:
        """Sum over answers of -weight log p(answer | question), in nats."""
        logp_BV = self.log_probabilities(batch.ids_BT)
        return -(batch.weight_N * logp_BV[batch.question_N, batch.answer_N]).sum()

    @torch.no_grad()
    def measure(self, batch: QuestionBatch) -> dict[str, float]:
        """Sums of nats, of the network and of the blend (the network again if there is none), and cells."""
        nats = float(self.loss(batch))
        blended = nats if self.blend is None else self._blended_nats(batch, self.blend)
        return {"nats": nats, "blended": blended, "cells": float(batch.n_targets)}

    def metrics(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Log-likelihood in nats per row, that of the network alone, and the loss: the network's nats per cell."""
        cells = sum(part["cells"] for part in parts)
        if not cells:
            return {}
        rows = cells / len(self.cards)
        nats, blended = (sum(part[name] for part in parts) for name in ("nats", "blended"))
        return {"log_likelihood": -blended / rows, "network": -nats / rows, "loss": nats / cells}

    @torch.no_grad()
    def predict(self, column: int, contexts: Codes) -> Floats:
        """Probabilities (M, card) of a column's categories for M contexts, given as category codes (M, P)."""
        place = list(self.contexts[column])
        begin, end = self.start[column], self.start[column + 1]
        device = next(self.parameters()).device
        ids = np.full((len(contexts), 1 + len(place)), self.n_values + column)
        ids[:, 1:] = contexts + self.start[place]
        parts = [
            self.log_probabilities(torch.from_numpy(ids[at : at + PREDICTED_AT_ONCE]).to(device))[
                :, begin:end
            ]
            for at in range(0, len(ids), PREDICTED_AT_ONCE)
        ]
        p = torch.cat(parts).double().exp().cpu().numpy()
        normal: Floats = p / p.sum(-1, keepdims=True)
        return normal

    def roles(self) -> dict[str, str]:
        """The trunk's roles; the vocabulary matrix is the head."""
        roles = {f"trunk.{name}": role for name, role in self.trunk.roles().items()}
        return roles | {f"head.{name}": role for name, role in self.head.roles().items()}

    def _blended_nats(self, batch: QuestionBatch, blend: Conditionals) -> float:
        ids = batch.ids_BT.cpu().numpy()
        question, answer = batch.question_N.cpu().numpy(), batch.answer_N.cpu().numpy()
        weight = batch.weight_N.double().cpu().numpy()
        nats = 0.0
        for i, context in enumerate(self.contexts):
            mine = np.flatnonzero(ids[:, 0] == self.n_values + i)
            if not len(mine):
                continue
            p = blend(i, ids[mine, 1 : 1 + len(context)] - self.start[list(context)])
            place = np.full(len(ids), -1)
            place[mine] = np.arange(len(mine))
            inside = place[question] >= 0
            nats -= float(weight[inside] @ np.log(p[place[question[inside]], answer[inside] - self.start[i]]))
        return nats

    def _own(self, hidden: Tensor, columns: Tensor) -> Tensor:
        """Log-softmax over the values of each question's own column."""
        logits = self.head(hidden)[..., : self.n_values]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        masked: Tensor = logits.masked_fill(~self.own_nV[columns], -torch.inf)
        return masked.log_softmax(-1)


class _Context:
    """A cache that gives each question the keys and values of its context, made by the same block just now."""

    def __init__(self, n_values: int, context_BP: Tensor) -> None:
        self.n_values, self.context_BP = n_values, context_BP

    def __len__(self) -> int:
        return 0

    def store(self, block: int, k_SG1E: Tensor, v_SG1E: Tensor) -> tuple[Tensor, Tensor]:
        """Each sequence's own key, and the context's after it."""
        return self._beside(k_SG1E), self._beside(v_SG1E)

    def advance(self, positions: int) -> None:
        """Nothing is kept."""

    def _beside(self, x_SG1E: Tensor) -> Tensor:
        values_VGE = x_SG1E[: self.n_values, :, 0]
        context_BGPE = values_VGE[self.context_BP].transpose(1, 2)
        unseen = values_VGE.new_zeros(self.n_values, *context_BGPE.shape[1:])
        return torch.cat([x_SG1E, torch.cat([unseen, context_BGPE])], dim=2)


def _mask(n_values: int, context_BP: Tensor, question_B: Tensor) -> Tensor:
    """(S, 1, 1 + P): a value sees itself; a question itself and its context, where that is not filled up."""
    own = torch.ones(n_values + len(question_B), 1, dtype=torch.bool, device=question_B.device)
    seen = context_BP < n_values
    unseen = seen.new_zeros(n_values, seen.shape[1])
    return torch.cat([own, torch.cat([unseen, seen])], dim=1)[:, None]
