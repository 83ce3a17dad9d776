"""Pooling: from one vector a token to one vector a text, without a trace of the padding.

    pooled_b = sum_t w_bt h_bt / sum_t w_bt,      w_bt = 0 behind the end of text b

``visible`` is the mask that goes with it: in a batch of texts of unequal length every token attends to all tokens
of its text, in both directions, and to no padding. So the vector of a text is the same in any company.

Shapes: B texts, T positions, D width.
"""

import torch
from torch import Tensor


def inside(lengths_B: Tensor, positions: int) -> Tensor:
    """True at the tokens of each text, (B, T); an empty text counts as one token, so that a mean exists.

    >>> inside(torch.tensor([2, 0]), 3).int()
    tensor([[1, 1, 0],
            [1, 0, 0]], dtype=torch.int32)
    """
    return torch.arange(positions, device=lengths_B.device) < lengths_B.clamp(min=1)[:, None]


def visible(lengths_B: Tensor, positions: int) -> Tensor:
    """The mask of bidirectional attention, (B, 1, T): every position may see every token of its own text.

    The trunk takes it as ``mask``; it is the same for all queries, so one row stands for T.

    >>> visible(torch.tensor([2]), 3).int()
    tensor([[[1, 1, 0]]], dtype=torch.int32)
    """
    return inside(lengths_B, positions)[:, None]


def mean_pool(hidden_BTD: Tensor, lengths_B: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Mean of each text's hidden states, (B, D).

    Args:
        weights_BT: non-negative weights of the tokens (an IDF, say); equal if ``None``. A text whose weights are
            all zero gets zero.

    >>> hidden_BTD = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> mean_pool(hidden_BTD, torch.tensor([2])).item()
    2.0
    >>> mean_pool(hidden_BTD, torch.tensor([2]), torch.tensor([[1.0, 3.0, 9.0]])).item()
    2.5
    """
    weights = inside(lengths_B, hidden_BTD.shape[1]).to(hidden_BTD.dtype)
    if weights_BT is not None:
        weights = weights * weights_BT.to(hidden_BTD.dtype)
    total_B = weights.sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    # As a product of matrices: nothing of the size of the hidden states is made.
    pooled_BD: Tensor = torch.bmm(weights[:, None], hidden_BTD)[:, 0] / total_B[:, None]
    return pooled_BD


def max_pool(hidden_BTD: Tensor, seen_BT: Tensor) -> Tensor:
    """Largest value of each channel over the tokens that are seen (at least one a text), (B, D).

    >>> max_pool(torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([[True, True, False]])).item()
    3.0
    """
    return hidden_BTD.masked_fill(~seen_BT[..., None], -torch.inf).amax(1)
