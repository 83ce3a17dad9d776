r"""Classification: one of a few labels for a whole sequence.

    z(x) = s * lexical(x) + W pool(trunk(x)) + b,     loss = -log softmax(z)[label]

The lexical model's log-probabilities are where the network starts: its head is zero at first. ``s`` is learned, and
how much of either is believed in the end is chosen on held-out rows (``calibration.py``).

Imbalance: class weights multiply each row's loss by (rows / classes / rows of its class); logit adjustment adds
:math:`\tau \ln p(c)` to the logits while training, so that without it the rare classes are said as often as balance
asks. Label smoothing mixes the target with the uniform distribution.

Attention sees the whole text in both directions; weights learned under a causal mask go on with the mask removed.

Shapes: B texts, T positions, D width, C classes, V vocabulary.
Sources: logit adjustment, A. Menon et al., https://arxiv.org/abs/2007.07314; label smoothing, C. Szegedy et al.,
https://arxiv.org/abs/1512.00567; token dropout as in M. Iyyer et al., "Deep Unordered Composition", ACL 2015.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.data.labelled import LabelledBatch
from steepest.losses.calibration import fit_blend
from steepest.model import Transformer
from steepest.objectives.base import KindConfig, Objective
from steepest.objectives.pooling import inside, max_pool, mean_pool
from steepest.objectives.scores import (
    CLASSIFICATION,
    QUICK,
    check_metric,
    classification_scores,
    score_interval,
)


class ClassificationConfig(KindConfig):
    """What classification can be told."""

    kind: Literal["classification"] = "classification"
    metric: str = Field("macro_f1", description="what chooses the checkpoint: " + ", ".join(CLASSIFICATION))
    label_column: str | None = Field(None, description="column of the label; found if left out")
    dev: str | None = Field(None, description="file of rows to choose by; split off training if left out")
    test: str | None = Field(
        None, description="file of rows to be judged on at the end, kept out of training"
    )
    keep_leaks: bool = Field(False, description="leave copies of dev and test rows in training")
    labels: list[str] = Field([], description="names of the classes; read from the data")
    counts: list[int] = Field([], description="training rows of each; read from the data")
    lexical: bool = Field(True, description="start from a regression on n-grams of words and characters")
    attention: Literal["bidirectional", "causal"] = Field("bidirectional", description="what a token may see")
    pooling: Literal["mean", "max", "mean+max"] = Field("mean", description="one vector from all tokens'")
    token_dropout: float = Field(0.1, ge=0, lt=1, description="share of the tokens hidden while training")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class counts alike"
    )
    logit_adjustment: float = Field(
        0.0, ge=0, description="times the log prior of a class, added while training"
    )

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        check_metric(metric, CLASSIFICATION, "classification")
        return metric

    @model_validator(mode="after")
    def _binary(self) -> "ClassificationConfig":
        if CLASSIFICATION[self.metric].binary and len(self.labels) > 2:
            raise ValueError(
                f'metric "{self.metric}" is for two classes, the data has {len(self.labels)}; use macro_f1'
            )
        return self


class Classification(Objective):
    """A linear head on pooled hidden states, beside a lexical model's log-probabilities.

    Args:
        trunk: maps ids (B, T) to hidden states (B, T, D).
        config: its labels must be filled in.
        idf_V: weight of each token in the mean; equal if ``None``.
    """

    idf_V: Tensor
    blend_K: Tensor
    adjustment_C: Tensor
    weights_C: Tensor

    def __init__(self, trunk: Transformer, config: ClassificationConfig, idf_V: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.trunk = config, trunk
        self.metric = config.metric
        self.lower_is_better = CLASSIFICATION[config.metric].lower_is_better
        classes, width = len(config.labels), trunk.config.width * (1 + (config.pooling == "mean+max"))
        self.head = nn.ParameterDict({"weight": torch.zeros(classes, width), "bias": torch.zeros(classes)})
        self.lexical_scale = nn.Parameter(torch.ones(1), requires_grad=config.lexical)
        counts_C = torch.tensor(config.counts, dtype=torch.float32).clamp(min=1)
        adjustment_C = config.logit_adjustment * (counts_C / counts_C.sum()).log()
        weights_C = counts_C.sum() / classes / counts_C
        weights_C = weights_C if config.class_weights == "balanced" else torch.ones(classes)
        self.register_buffer("adjustment_C", adjustment_C, persistent=False)
        self.register_buffer("weights_C", weights_C, persistent=False)
        self.register_buffer("idf_V", torch.ones(trunk.config.vocab_size) if idf_V is None else idf_V)
        # How much is believed of the lexical model and of the network: fitted by every evaluation.
        self.register_buffer("blend_K", torch.ones(2))

    def network(self, batch: LabelledBatch) -> Tensor:
        """What the network adds to the lexical model's logits, (B, C)."""
        ids_BT = batch.ids_BT
        seen_BT = inside(batch.lengths_B, ids_BT.shape[1])
        if self.training and self.config.token_dropout:
            kept_BT = torch.rand(ids_BT.shape, device=ids_BT.device) >= self.config.token_dropout
            kept_BT[:, 0] = True  # so that no text is left without a token
            seen_BT = seen_BT & kept_BT
        mask = seen_BT[:, None]
        if self.config.attention == "causal":
            mask = mask & torch.ones(2 * ids_BT.shape[1:], dtype=torch.bool, device=ids_BT.device).tril()
        hidden_BTD: Tensor = self.trunk(ids_BT, mask=mask)
        pooled = {
            "mean": lambda: mean_pool(hidden_BTD, batch.lengths_B, seen_BT * self.idf_V[ids_BT]),
            "max": lambda: max_pool(hidden_BTD, seen_BT),
        }
        pooled_BD = torch.cat([pooled[name]() for name in self.config.pooling.split("+")], dim=1)
        return F.linear(pooled_BD, self.head["weight"], self.head["bias"])

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Sum over texts of the (weighted, smoothed, adjusted) cross-entropy, in nats."""
        logits_BC = self.lexical_scale * batch.offset_BC + self.network(batch) + self.adjustment_C
        losses_B = F.cross_entropy(
            logits_BC.float(), batch.labels_B, reduction="none", label_smoothing=self.config.label_smoothing
        )
        return (losses_B * self.weights_C[batch.labels_B]).sum()

    @torch.no_grad()
    def measure(self, batch: LabelledBatch) -> tuple[Tensor, Tensor, bool]:
        """The two logits (2, B, C) and the labels."""
        logits_KBC = torch.stack([batch.offset_BC, self.network(batch).float()])
        return logits_KBC.cpu(), batch.labels_B.cpu(), batch.calibrates

    def metrics(self, parts: Sequence[tuple[Tensor, Tensor, bool]]) -> dict[str, float]:
        """The loss in nats per text, and scores of calibrated probabilities.

        Rows that calibrate are what the blend is fitted to first; others are judged with it as it is.
        """
        logits_KNC = torch.cat([part[0] for part in parts], dim=1)
        labels_N = torch.cat([part[1] for part in parts])
        if all(part[2] for part in parts):
            self.calibrate(logits_KNC, labels_N)
        known = labels_N < logits_KNC.shape[2]
        plain_NC = self.lexical_scale.detach().cpu() * logits_KNC[0] + logits_KNC[1]
        loss = F.cross_entropy(plain_NC[known], labels_N[known]).item() if known.any() else float("nan")
        names = dict.fromkeys([self.metric, *QUICK, "calibration_error"])
        return {"loss": loss, **classification_scores(self.probabilities(logits_KNC), labels_N, names)}

    def interval(self, parts: Sequence[tuple[Tensor, Tensor, bool]]) -> dict[str, float]:
        """The metric's bootstrap interval over the texts."""
        logits_KNC, labels_N = (
            torch.cat([part[0] for part in parts], 1),
            torch.cat([part[1] for part in parts]),
        )
        low, high = score_interval(self.metric, self.probabilities(logits_KNC), labels_N)
        return {f"{self.metric}_low": low, f"{self.metric}_high": high}

    def calibrate(self, logits_KNC: Tensor, labels_N: Tensor) -> None:
        """Choose how much of either logit to believe; only the lexical one, where that alone has the better metric."""
        first = 0 if self.config.lexical else 1
        fitted = torch.zeros(2)
        fitted[first:] = fit_blend(logits_KNC[first:], labels_N).float()
        self.blend_K.copy_(fitted)
        if not self.config.lexical or not fitted[1]:
            return
        reached = self._metric_of(logits_KNC, labels_N)
        alone = torch.zeros(2)
        alone[:1] = fit_blend(logits_KNC[:1], labels_N).float()
        self.blend_K.copy_(alone)
        if not self.better(self._metric_of(logits_KNC, labels_N), reached):
            self.blend_K.copy_(fitted)

    def _metric_of(self, logits_KNC: Tensor, labels_N: Tensor) -> float:
        return classification_scores(self.probabilities(logits_KNC), labels_N, [self.metric])[self.metric]

    def probabilities(self, logits_KNC: Tensor) -> Tensor:
        """Calibrated probabilities (N, C)."""
        return torch.softmax(torch.einsum("k,knc->nc", self.blend_K.cpu(), logits_KNC), 1)

    def roles(self) -> dict[str, str]:
        """The trunk's roles; the head is one."""
        roles = {f"trunk.{name}": role for name, role in self.trunk.roles().items()}
        return roles | {"head.weight": "head", "head.bias": "vector", "lexical_scale": "vector"}
