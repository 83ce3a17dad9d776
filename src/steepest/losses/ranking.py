"""Losses that compare distances: triplets with semi-hard negatives, and CoSENT for scored pairs.

    triplet    mean over pairs (a, p) of one class of   max(0, d(a, p) - d(a, n) + margin),    d = |z_a - z_.|^2
               n: the nearest of another class that is farther than p; if there is none, the farthest of all
    CoSENT     log(1 + sum over pairs of pairs with y_i > y_j of exp(s (c_j - c_i)))       c: cosine, y: wanted score

A negative nearer than the positive gives gradients that collapse a young encoder; one that is far gives none at
all. Semi-hard ones lie between. CoSENT asks for the order of the scores only, which is what a rank correlation
measures.

Shapes: N texts or scored pairs, D width, P pairs of one class.

Sources: F. Schroff et al., "FaceNet", https://arxiv.org/abs/1503.03832; J. Su, "CoSENT",
https://kexue.fm/archives/8847.
"""

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 20  # entries of (pairs of one class, texts) held at once


def semi_hard_triplet_loss(embeddings_ND: Tensor, labels_N: Tensor, *, margin: float = 0.2) -> Tensor:
    """Mean hinge over all pairs of one class, each with its semi-hard negative.

    Args:
        embeddings_ND: rows of length one.
        labels_N: integers, one a class.
        margin: how much farther a negative is to be, in squared distance.

    Returns:
        The mean; 0 if there is no pair of one class, or no second class.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> semi_hard_triplet_loss(z, torch.tensor([0, 0, 1]), margin=2.5)  # 0 - 2 + 2.5
    tensor(0.5000)
    """
    length_N = embeddings_ND.square().sum(1)
    square_NN = (length_N[:, None] + length_N[None] - 2 * embeddings_ND @ embeddings_ND.T).clamp(min=0)
    same_NN = labels_N[:, None] == labels_N[None]
    anchors_P, positives_P = same_NN.fill_diagonal_(False).nonzero(as_tuple=True)
    other_NN = labels_N[:, None] != labels_N[None]
    if not len(anchors_P) or not other_NN.any():
        return embeddings_ND.sum() * 0.0
    far_N = square_NN.detach().masked_fill(~other_NN, -torch.inf).argmax(1)
    chosen = []
    step = max(1, PAIRS_AT_ONCE // len(labels_N))
    for at in range(0, len(anchors_P), step):
        anchor_C, positive_C = anchors_P[at : at + step], positives_P[at : at + step]
        distance_CN = square_NN.detach()[anchor_C]
        farther_CN = other_NN[anchor_C] & (distance_CN > distance_CN.gather(1, positive_C[:, None]))
        nearest_C = distance_CN.masked_fill(~farther_CN, torch.inf).argmin(1)
        chosen.append(torch.where(farther_CN.any(1), nearest_C, far_N[anchor_C]))
    negatives_P = torch.cat(chosen)
    return (square_NN[anchors_P, positives_P] - square_NN[anchors_P, negatives_P] + margin).relu().mean()


def cosent_loss(
    left_ND: Tensor, right_ND: Tensor, scores_N: Tensor, *, scale: Tensor | float = 20.0
) -> Tensor:
    """log(1 + sum of exp(scale (cosine of the lower pair - cosine of the higher pair))), over ordered pairs.

    Args:
        left_ND: first texts, rows of length one.
        right_ND: second texts.
        scores_N: how alike they are; only the order counts, and ties ask for nothing.
        scale: one over the temperature.

    >>> left, right = torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    >>> round(cosent_loss(left, right, torch.tensor([5.0, 0.0]), scale=1.0).item(), 4)  # log(1 + e)
    1.3133
    """
    cosine_N = torch.linalg.vecdot(left_ND, right_ND) * scale
    gaps_NN = cosine_N[None, :] - cosine_N[:, None]
    asked_NN = scores_N[:, None] > scores_N[None, :]
    gaps_NN = gaps_NN.masked_fill(~asked_NN, -torch.inf).flatten()
    return torch.logsumexp(torch.cat([gaps_NN.new_zeros(1), gaps_NN]), 0)
