"""Losses: numbers to descend, each a formula with a plain form and a fast one."""

from steepest.losses.cross_entropy import (
    IGNORE_INDEX,
    chunked_cross_entropy,
    chunked_token_losses,
    cross_entropy,
)

__all__ = ["IGNORE_INDEX", "chunked_cross_entropy", "chunked_token_losses", "cross_entropy"]
