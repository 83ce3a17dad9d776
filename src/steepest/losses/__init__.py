"""Losses: numbers to descend, each a formula with a plain form and a fast one."""

from steepest.losses.contrastive import info_nce, matryoshka, sigmoid_loss, supervised_info_nce
from steepest.losses.cross_entropy import (
    IGNORE_INDEX,
    chunked_cross_entropy,
    chunked_token_losses,
    cross_entropy,
)
from steepest.losses.ranking import cosent_loss, semi_hard_triplet_loss
from steepest.losses.tiled import tiled_logsumexp, tiled_sigmoid_loss

__all__ = [
    "IGNORE_INDEX",
    "chunked_cross_entropy",
    "chunked_token_losses",
    "cosent_loss",
    "cross_entropy",
    "info_nce",
    "matryoshka",
    "semi_hard_triplet_loss",
    "sigmoid_loss",
    "supervised_info_nce",
    "tiled_logsumexp",
    "tiled_sigmoid_loss",
]
