"""Collapse: do embeddings still tell texts apart? Four figures, and words for what they mean.

    alignment       mean |q_i - k_i|^2 of texts that belong together                    small is good
    uniformity      log mean over pairs of exp(-2 |k_i - k_j|^2)                         -4 spread out, 0 one point
    effective rank  exp of the entropy of the normalised singular values                 how many directions are used
    mean cosine     of texts that do not belong together                                 near 0 is good

A contrastive loss can look healthy in number and mean nothing: at log of the batch every text is the same point, and
with the wrong temperature that is where it stays.

Sources: T. Wang and P. Isola, https://arxiv.org/abs/2005.10242; O. Roy and M. Vetterli, "The effective rank", 2007.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLE = 1024  # embeddings looked at
COSINE_LIMIT, UNIFORMITY_LIMIT, RANK_LIMIT = 0.9, -0.5, 0.02
LEAST_TEXTS = 20  # of which one can say in how many directions they lie


def spread(keys_MD: Tensor) -> dict[str, float]:
    """Uniformity, effective rank and mean off-diagonal cosine of embeddings of length one.

    >>> {name: round(value, 3) for name, value in spread(torch.eye(4)).items()}
    {'uniformity': -4.0, 'effective_rank': 4.0, 'mean_cosine': 0.0}
    """
    if len(keys_MD) > SAMPLE:
        keys_MD = keys_MD[torch.linspace(0, len(keys_MD) - 1, SAMPLE).long()]
    keys_MD = keys_MD.double()
    n = len(keys_MD)
    if n < 2:
        return {"uniformity": float("nan"), "effective_rank": float(n), "mean_cosine": float("nan")}
    cosine_MM = keys_MD @ keys_MD.T
    off = ~torch.eye(n, dtype=torch.bool, device=keys_MD.device)
    square = (2 - 2 * cosine_MM[off]).clamp(min=0)
    values = torch.linalg.svdvals(keys_MD)
    share = values / values.sum().clamp(min=1e-300)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return {
        "uniformity": float(square.mul(-2).exp().mean().log()),
        "effective_rank": float(entropy.exp()),
        "mean_cosine": float(cosine_MM[off].mean()),
    }


def alignment(left_ND: Tensor, right_ND: Tensor) -> float:
    """Mean squared distance of texts that belong together."""
    return float((left_ND.double() - right_ND.double()).square().sum(1).mean())


def collapse_warnings(figures: Mapping[str, float], width: int, texts: int | None = None) -> list[str]:
    """What is wrong, in words; nothing if all is well.

    Args:
        figures: of some embeddings, as `collapse` finds them.
        width: of an embedding.
        texts: how many there were: so few cannot use more directions than they are.

    >>> collapse_warnings({"mean_cosine": 0.99, "uniformity": -0.02, "effective_rank": 1.3}, 256)[0]
    'the embeddings have collapsed: two texts at random have a cosine of 0.99; lower the learning rate or ...'
    """
    cosine, uniform, rank = (
        figures.get(name, float("nan")) for name in ("mean_cosine", "uniformity", "effective_rank")
    )
    if cosine > COSINE_LIMIT or uniform > UNIFORMITY_LIMIT:
        return [
            f"the embeddings have collapsed: two texts at random have a cosine of {cosine:.2f}; "
            "lower the learning rate or the scale, or check that the pairs differ"
        ]
    if texts is not None and texts < LEAST_TEXTS:
        return []
    if rank < max(2.0, RANK_LIMIT * min(width, texts or width)):
        return [
            f"the embeddings use {rank:.0f} of {width} directions; a smaller objective.dims would serve as well, "
            "or the learning rate is too high"
        ]
    return []
