"""Which loss suits which table, and any ``loss(embeddings, labels)`` from elsewhere.

    infonce   pairs: softmax both ways, with extra negatives; classes: all texts of a class attract
    siglip    pairs: every pair of texts by itself is yes or no
    triplet   classes, or pairs as classes of two: a semi-hard negative for each positive
    cosent    scores: the order of the cosines is to be the order of the scores

A callable is named by its place, "package.module:name", or passed from Python. It gets the embeddings, rows of length
one, and int64 labels of which equal ones belong together, and returns one number; this is what the losses (and, as
a loss with a miner inside, the miners) of pytorch-metric-learning do. A class is called without arguments first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steepest.data.pair_batches import PairBatch
from steepest.errors import ConfigError
from steepest.losses import (
    cosent_loss,
    info_nce,
    semi_hard_triplet_loss,
    sigmoid_loss,
    supervised_info_nce,
    tiled_logsumexp,
)

if TYPE_CHECKING:
    from steepest.objectives.contrastive import ContrastiveConfig

EmbeddingLoss = Callable[[Tensor, Tensor], Tensor]
PairLoss = Callable[[Tensor, PairBatch, Tensor, Tensor], Tensor]  # embeddings, batch, scale, bias

LOSSES: dict[str, Sequence[str]] = {
    "infonce": ("pairs", "classes"),
    "siglip": ("pairs",),
    "triplet": ("pairs", "classes"),
    "cosent": ("scores",),
}


def named_loss(config: ContrastiveConfig, loss: EmbeddingLoss | None = None) -> PairLoss:
    """The loss of a config, or a callable made fit for batches of rows."""
    if loss is not None:
        return _of_labels(loss)
    if ":" in config.loss:
        return _of_labels(_imported(config.loss))
    name = config.loss if config.loss != "auto" else "cosent" if config.form == "scores" else "infonce"

    def infonce(z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor) -> Tensor:
        if config.form == "classes":
            return supervised_info_nce(z_BD, batch.groups_R, scale=scale)
        queries, keys, key_groups = _queries_and_keys(z_BD, batch)
        return info_nce(queries, keys, scale=scale, groups_N=batch.groups_R, key_groups_M=key_groups,
                        symmetric=config.symmetric)  # fmt: skip

    def siglip(z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor) -> Tensor:
        queries, keys, key_groups = _queries_and_keys(z_BD, batch)
        return sigmoid_loss(
            queries, keys, scale=scale, bias=bias, groups_N=batch.groups_R, key_groups_M=key_groups
        )

    def triplet(z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor) -> Tensor:
        return semi_hard_triplet_loss(z_BD, labels_of(batch), margin=config.margin)

    def cosent(z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor) -> Tensor:
        assert batch.scores_R is not None
        return cosent_loss(z_BD[::2], z_BD[1::2], batch.scores_R, scale=scale)

    return {"infonce": infonce, "siglip": siglip, "triplet": triplet, "cosent": cosent}[name]


def stand_in(
    config: ContrastiveConfig, z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor
) -> Tensor:
    """A loss that takes as much memory as the config's, and whose work does not depend on any value."""
    if config.loss == "siglip" or (config.loss in ("auto", "infonce") and config.form == "pairs"):
        return named_loss(config)(z_BD, batch, scale, bias)
    if config.loss in ("auto", "infonce") and config.form == "classes":
        return tiled_logsumexp(z_BD, z_BD, scale)[0].mean()
    return torch.logsumexp(
        scale * (z_BD @ z_BD.T), 1
    ).mean()  # triplets, scores, others': a matrix of all texts


def labels_of(batch: PairBatch) -> Tensor:
    """A label for every text, int64 (B,): its row's group; a negative has its own, or the group it belongs to."""
    groups_R, width = batch.groups_R, batch.width
    if width <= 2:
        return groups_R.repeat_interleave(width)
    negatives = batch.negative_groups.reshape(len(groups_R), width - 2)
    fresh = torch.arange(negatives.numel(), device=groups_R.device).reshape(negatives.shape)
    fresh = fresh + int(groups_R.max()) + 1
    return torch.cat(
        [groups_R[:, None].expand(-1, 2), torch.where(negatives < 0, fresh, negatives)], 1
    ).flatten()


def _queries_and_keys(z_BD: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Anchors (R, D), positives and then all negatives (M, D), and the keys' groups where there are negatives."""
    rows_RKD = z_BD.reshape(-1, batch.width, z_BD.shape[1])
    if batch.width == 2:
        return rows_RKD[:, 0], rows_RKD[:, 1], None
    keys_MD = torch.cat([rows_RKD[:, 1], rows_RKD[:, 2:].flatten(0, 1)])
    return rows_RKD[:, 0], keys_MD, torch.cat([batch.groups_R, batch.negative_groups])


def _of_labels(loss: EmbeddingLoss) -> PairLoss:
    def of_batch(z_BD: Tensor, batch: PairBatch, scale: Tensor, bias: Tensor) -> Tensor:
        value = loss(z_BD, labels_of(batch))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(
                f"a loss(embeddings, labels) must return one number; got {type(value).__name__}"
            )
        return value.reshape(())

    return of_batch


def _imported(place: str) -> EmbeddingLoss:
    module, _, name = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        found = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f'objective.loss "{place}" cannot be loaded: {error}') from None
    if not callable(found):
        raise ConfigError(f'objective.loss "{place}" is no callable: it is {type(found).__name__}')
    loss: EmbeddingLoss = found
    return loss
