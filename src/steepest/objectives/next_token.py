"""Next-token prediction: the autoregressive model of a discrete sequence.

    p(x) = prod_t p(x_t | x_1 ... x_{t-1}),     loss = -log p(x), in nats

Judged in bits per byte of text, which does not depend on the tokenizer:

    bits per byte = (sum of nats) / ln 2 / (bytes of the text that was predicted)

Shapes: B sequences, T positions, D width, V vocabulary, N = B*T targets.
Source: C. E. Shannon, "Prediction and Entropy of Printed English", 1951.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from steepest.data.batches import Batch
from steepest.losses import chunked_cross_entropy, chunked_token_losses
from steepest.model import Transformer, VocabularyHead, document_mask
from steepest.objectives.base import KindConfig, Objective
from steepest.objectives.scores import check_metric

METRICS = {
    "bits_per_byte": True,
    "loss": True,
    "perplexity": True,
    "accuracy": False,
}  # whether less is better


class NextTokenConfig(KindConfig):
    """What next-token prediction can be told."""

    kind: Literal["next-token"] = "next-token"
    metric: str = Field("bits_per_byte", description="what chooses the checkpoint: " + ", ".join(METRICS))
    z_loss: float = Field(0.0, ge=0, description="weight of the squared log-partition (keeps logits bounded)")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        check_metric(metric, METRICS, "next-token")
        return metric


class NextToken(Objective):
    """Cross-entropy of the next token; target metric ``bits_per_byte`` unless the config names another.

    Args:
        trunk: maps ids (B, T) to hidden states (B, T, D).
        token_bytes: bytes of text that each id stands for, (V,); zero for special tokens.
        config: see ``NextTokenConfig``.
    """

    token_bytes_V: Tensor

    def __init__(
        self, trunk: Transformer, token_bytes: np.ndarray, config: NextTokenConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config or NextTokenConfig()
        self.metric, self.lower_is_better = self.config.metric, METRICS[self.config.metric]
        self.trunk = trunk
        self.head = VocabularyHead(trunk)
        self.register_buffer(
            "token_bytes_V",
            torch.from_numpy(np.ascontiguousarray(token_bytes, dtype=np.int64)),
            persistent=False,
        )

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of the batch's inputs, flattened to (N, D)."""
        mask = None if batch.document_ids_BT is None else document_mask(batch.document_ids_BT)
        hidden_BTD: Tensor = self.trunk(batch.ids_BT, mask=mask)
        return hidden_BTD.flatten(0, 1)

    def loss(self, batch: Batch) -> Tensor:
        """Sum over targets of -log p(target), in nats (plus z-loss, if any)."""
        return chunked_cross_entropy(
            self.hidden(batch), self.head.weight, batch.targets_BT.flatten(), z_loss=self.config.z_loss
        )

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Sums of nats, right guesses, targets and bytes."""
        targets_N = batch.targets_BT.flatten()
        nats_N, correct_N = chunked_token_losses(self.hidden(batch), self.head.weight, targets_N)
        counted_N = targets_N >= 0
        return {
            "nats": nats_N.double().sum().item(),
            "correct": float(correct_N.sum().item()),
            "targets": float(counted_N.sum().item()),
            "bytes": float(self.token_bytes_V[targets_N[counted_N]].sum().item()),
        }

    def metrics(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Loss (nats per token), bits per byte, perplexity and top-1 accuracy."""
        sums: Counter[str] = Counter()
        for part in parts:
            for name, value in part.items():
                sums[name] += value  # type: ignore[assignment]
        loss = sums["nats"] / max(sums["targets"], 1)
        return {
            "loss": loss,
            "bits_per_byte": sums["nats"] / math.log(2) / sums["bytes"] if sums["bytes"] else math.nan,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "accuracy": sums["correct"] / max(sums["targets"], 1),
        }

    def roles(self) -> dict[str, str]:
        """The trunk's roles; an untied vocabulary matrix is the head."""
        roles = {f"trunk.{name}": role for name, role in self.trunk.roles().items()}
        return roles | {f"head.{name}": role for name, role in self.head.roles().items()}
