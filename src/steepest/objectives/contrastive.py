r"""Contrastive learning: texts that belong together near each other, all others apart.

    z(x) = e(x) / |e(x)|,     e(x) = sum_t w_t h_t(x),     h = trunk(x),     log w learned, w_t = IDF_t at first

The trunk's blocks are the identity at first, and without any it stays so: then h_t is the normalised vector of a
token and z a bag of words weighted by IDF, which knows something before the first step. A trunk without blocks
(``model.depth = 0``) is the default, for in the minutes of a CPU it learns more than one with (docs/retrieval.md).

The figure to be judged by is of ``z`` fused with lexical scores (``retrieval/fusion.py``), by weights that every
evaluation chooses on the held-out rows and that are kept with the network's; ``dense_`` figures are of ``z`` alone.

Whatever the batch, its gradient is the whole batch's: the encoder's work is cut (``memory/gradient_caching.py``), the
loss is not.

Shapes: R rows, K texts a row, B = R K texts, T positions, D width, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn import functional as F

from steepest.config import nearest
from steepest.data.pair_batches import PairBatch
from steepest.data.pairs import Ints
from steepest.errors import ConfigError
from steepest.losses.contrastive import matryoshka
from steepest.memory.gradient_caching import cached_gradient, length_sorted_chunks
from steepest.model import Transformer
from steepest.objectives.base import KindConfig, Objective
from steepest.objectives.pair_losses import LOSSES, EmbeddingLoss, PairLoss, named_loss, stand_in
from steepest.objectives.retrieval_metrics import figures, known_metric, metric_names
from steepest.retrieval.collapse import collapse_warnings
from steepest.retrieval.truth import VIEWS, Judged, Truth

LARGEST_SCALE = 100.0  # one over the temperature, at most
TINY = 1e-12
LOSS_ROWS = 1024  # of the held-out loss


class ContrastiveConfig(KindConfig):
    """What contrastive learning can be told."""

    kind: Literal["contrastive"] = "contrastive"
    metric: str | None = Field(
        None, description="what chooses the checkpoint: recall@k, mrr, map@r, spearman, pearson"
    )
    form: Literal["auto", "pairs", "classes", "scores"] = Field(
        "auto", description="what the table holds; auto: read off it"
    )
    columns: list[str] = Field(
        [], description="the table's columns, in order of their roles; found if left out"
    )
    dev: str | None = Field(None, description="file of rows to choose by; split off training if left out")
    test: str | None = Field(
        None, description="file of rows to be judged on at the end, kept out of training"
    )
    keep_leaks: bool = Field(False, description="leave copies of dev and test rows in training")
    loss: str = Field(
        "auto", description=f"auto, {', '.join(LOSSES)}, or the place of a callable: package.module:name"
    )
    temperature: float = Field(0.05, gt=0, description="of the softmax, at first")
    learn_temperature: bool = Field(True, description="whether it is learned, never below 0.01")
    margin: float = Field(0.2, gt=0, description="of the triplet loss, in squared distance")
    symmetric: bool = Field(True, description="also find the anchor of every positive (infonce)")
    dims: list[int] = Field(
        [], description="widths at which a cut embedding is to serve as well (Matryoshka), besides the whole"
    )
    token_dropout: float = Field(0.3, ge=0, lt=1, description="share of the tokens hidden while training")
    attention: Literal["bidirectional", "causal"] = Field("bidirectional", description="what a token may see")
    idf: bool = Field(True, description="begin with rare tokens weighing more")
    lexical: bool = Field(
        True, description="fuse the embedding's score with lexical ones, weights by held-out rows"
    )

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str | None) -> str | None:
        if metric is not None and not known_metric(metric):
            names = metric_names()
            raise ValueError(
                f"objective contrastive has no such metric{nearest(metric, names) or ';'} It has {', '.join(names)}"
            )
        return metric

    @field_validator("loss")
    @classmethod
    def _loss(cls, loss: str) -> str:
        if loss not in ("auto", *LOSSES) and ":" not in loss:
            raise ValueError(
                f"expected {', '.join(('auto', *LOSSES))} or package.module:name{nearest(loss, LOSSES)}"
            )
        return loss

    @model_validator(mode="after")
    def _fits(self) -> "ContrastiveConfig":
        if self.form != "auto" and self.metric is not None and not known_metric(self.metric, self.form):
            raise ValueError(
                f'metric "{self.metric}" does not suit {self.form}, which have {", ".join(metric_names(self.form))}'
            )
        if self.loss in LOSSES and self.form != "auto" and self.form not in LOSSES[self.loss]:
            raise ValueError(
                f'loss "{self.loss}" is for {" and ".join(LOSSES[self.loss])}; the table holds {self.form}'
            )
        return self


class Contrastive(Objective):
    """Embeddings of texts, learned by a loss over a whole batch.

    Args:
        trunk: maps ids (B, T) to hidden states (B, T, D).
        config: its form and metric must be resolved.
        idf_V: weight of each token at first; equal ones if ``None``.
        loss: any ``loss(embeddings, labels)``, instead of the config's; equal labels belong together.
    """

    fusion_V: Tensor

    def __init__(
        self,
        trunk: Transformer,
        config: ContrastiveConfig,
        idf_V: Tensor | None = None,
        loss: EmbeddingLoss | None = None,
    ) -> None:
        super().__init__()
        if config.form == "auto" or config.metric is None:
            raise ConfigError(
                "an objective needs to know the form of its table: set objective.form and objective.metric"
            )
        width = trunk.config.width
        if config.dims and not all(1 <= dim <= width for dim in config.dims):
            raise ConfigError(f"objective.dims must lie between 1 and {width}, the width; got {config.dims}")
        self.config, self.trunk = config, trunk
        self.metric, self.lower_is_better = config.metric, False
        self.log_scale = nn.Parameter(torch.tensor([1 / config.temperature]).log(), config.learn_temperature)
        self.bias = nn.Parameter(torch.full((1,), -10.0), config.loss == "siglip")
        weights_V = torch.ones(trunk.config.vocab_size) if idf_V is None or not config.idf else idf_V.float()
        self.log_weights_V = nn.Parameter(weights_V.clamp(min=1e-3).log())
        self.register_buffer("fusion_V", torch.eye(1 + len(VIEWS), dtype=torch.float64)[0].clone())
        self._loss: PairLoss = named_loss(config, loss)
        self.judged: Judged | None = None  # what the last evaluation found
        self.judged_texts: int | None = None  # in how many texts
        self.found: dict[str, float] = {}

    @property
    def scale(self) -> Tensor:
        """One over the temperature, clamped; its gradient is not, so it finds back."""
        above = (self.log_scale - math.log(LARGEST_SCALE)).clamp(min=0).detach()
        scale = (self.log_scale - above).exp()
        return (scale + (scale.clamp(max=LARGEST_SCALE) - scale).detach())[0]  # to the last bit

    # -- embedding ------------------------------------------------------------------------------------

    def encode(self, ids_BT: Tensor, lengths: Ints) -> Tensor:
        """Embeddings of any length, float32 (B, D).

        Args:
            lengths: tokens of each text, int64 on the host.
        """
        lengths = np.maximum(lengths, 1)  # an empty text counts as one token
        if self.trunk.config.depth == 0 and not torch.is_autocast_enabled(ids_BT.device.type):
            return self._bag(ids_BT, lengths)
        inside_BT = torch.from_numpy(np.arange(ids_BT.shape[1]) < lengths[:, None]).to(ids_BT.device)
        kept_BT = inside_BT & self._kept(ids_BT.shape, ids_BT.device)
        mask = kept_BT[:, None]
        if self.config.attention == "causal":
            mask = mask & torch.ones(2 * ids_BT.shape[1:], dtype=torch.bool, device=ids_BT.device).tril()
        hidden_BTD: Tensor = self.trunk(ids_BT, mask=mask)
        weights_BT = self.log_weights_V.exp()[ids_BT] * kept_BT
        return torch.bmm(weights_BT[:, None].to(hidden_BTD.dtype), hidden_BTD)[:, 0].float()

    def _bag(self, ids_BT: Tensor, lengths: Ints) -> Tensor:
        """The same without blocks, and without a vector for every token: normalise the vocabulary, sum up rows."""
        places = np.flatnonzero(np.arange(ids_BT.shape[1]) < lengths[:, None])
        ids_N = ids_BT.reshape(-1)[torch.from_numpy(places).to(ids_BT.device)]
        starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(ids_BT.device)
        weights_N = self.log_weights_V.exp()[ids_N] * self._kept(ids_N.shape, ids_BT.device)
        vectors_VD = self.trunk.norm(self.trunk.embedding.weight)
        return F.embedding_bag(ids_N, vectors_VD, starts, mode="sum", per_sample_weights=weights_N)

    def _kept(self, shape: Sequence[int], device: torch.device) -> Tensor:
        if not self.training or not self.config.token_dropout:
            return torch.ones(tuple(shape), dtype=torch.bool, device=device)
        return torch.rand(tuple(shape), device=device) >= self.config.token_dropout

    @torch.no_grad()
    def embed(self, batch: PairBatch, dim: int | None = None) -> Tensor:
        """Embeddings of length one, (B, D), or of their first ``dim`` coordinates."""
        return unit(self.encode(batch.ids_BT, batch.lengths)[:, :dim])

    # -- learning -------------------------------------------------------------------------------------

    def loss(self, batch: PairBatch) -> Tensor:
        """The mean loss of the batch's rows times their number."""
        return self.loss_of(self.encode(batch.ids_BT, batch.lengths), batch) * batch.n_targets

    def loss_of(self, rows_BD: Tensor, batch: PairBatch) -> Tensor:
        """Mean loss of embeddings of any length."""

        def of_units(z_BD: Tensor) -> Tensor:
            if isinstance(
                z_BD, FakeTensor
            ):  # memory is being predicted: a loss may look at values, this one does not
                return stand_in(self.config, z_BD, batch, self.scale, self.bias[0])
            return self._loss(z_BD, batch, self.scale, self.bias[0])

        if not self.config.dims:
            return of_units(unit(rows_BD))
        return matryoshka(of_units, rows_BD, sorted({rows_BD.shape[1], *self.config.dims}, reverse=True))

    def accumulate_gradient(
        self, batch: Any, *, micro_batch: int, autocast: torch.dtype | None = None
    ) -> Tensor:
        """The gradient of the whole batch's mean loss, activations held of ``micro_batch`` full texts at once."""
        device, lengths = batch.ids_BT.device.type, batch.lengths

        def encode(rows: Ints | None = None) -> Tensor:
            with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
                if rows is None:
                    return self.encode(batch.ids_BT, lengths)
                longest = max(1, int(lengths[rows].max()))
                return self.encode(batch.ids_BT[torch.from_numpy(rows), :longest], lengths[rows])

        if self.trunk.config.depth == 0 or micro_batch >= len(lengths):
            value = self.loss_of(encode(), batch)
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach().double()
        chunks = length_sorted_chunks(np.maximum(lengths, 1), micro_batch * self.trunk.config.context)
        place = torch.from_numpy(np.argsort(np.concatenate(chunks))).to(batch.ids_BT.device)
        fake = isinstance(batch.ids_BT, FakeTensor)
        random = (
            not fake and self.training and (self.config.token_dropout > 0 or self.trunk.config.dropout > 0)
        )
        value = cached_gradient(
            [partial(encode, rows) for rows in chunks], lambda rows_BD: self.loss_of(rows_BD[place], batch),
            random=random,
        )  # fmt: skip
        return value.double()

    # -- being judged ---------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, batch: PairBatch) -> tuple[Tensor, Truth]:
        """Embeddings of any length, and what they are judged by."""
        return self.encode(batch.ids_BT, batch.lengths).cpu(), batch.truth

    @torch.no_grad()
    def metrics(self, parts: Sequence[tuple[Tensor, Truth]]) -> dict[str, float]:
        """The target metric and its kin, fused and dense, the held-out loss, and how spread the embeddings are."""
        rows_BD = torch.cat([rows for rows, _ in parts])
        truth = parts[0][1]
        z_BD = unit(rows_BD)
        dense_V = torch.eye(len(self.fusion_V), dtype=torch.float64)[0]
        if truth.development and self.config.lexical:
            self.fusion_V.copy_(truth.fit(z_BD, self.metric))
        dense = truth.judge(z_BD, dense_V)
        fused = truth.judge(z_BD, self.fusion_V.cpu()) if self.config.lexical else dense
        self.judged, self.judged_texts = fused, len(z_BD)
        found = figures(fused, dense, z_BD, truth, self.metric)
        self.found = {
            **found,
            "loss": self._held_out_loss(rows_BD, truth),
            "temperature": float(1 / self.scale),
        }
        return self.found

    def _held_out_loss(self, rows_BD: Tensor, truth: Truth) -> float:
        """The mean loss of the first held-out rows, as one batch."""
        rows = np.arange(min(len(truth.table), LOSS_ROWS), dtype=np.int64)
        batch, device = truth.encoded.batch(rows, context=1), self.log_scale.device
        return float(self.loss_of(rows_BD[: len(rows) * batch.width].to(device), batch.to(device)))

    def warnings(self, metrics: dict[str, float]) -> list[str]:
        """What is wrong with the embeddings, in words."""
        return collapse_warnings(metrics, self.trunk.config.width, self.judged_texts)

    def roles(self) -> dict[str, str]:
        """The trunk's roles; temperature, bias and the tokens' weights are vectors."""
        roles = {f"trunk.{name}": role for name, role in self.trunk.roles().items()}
        return roles | {"log_scale": "vector", "bias": "vector", "log_weights_V": "vector"}


def unit(rows_BD: Tensor) -> Tensor:
    """Rows of length one; a row of zeros stays one, with a gradient."""
    return rows_BD / (rows_BD.square().sum(1, keepdim=True) + TINY).sqrt()
