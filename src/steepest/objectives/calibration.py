"""Calibration: how much of each of several logits to believe, chosen on held-out rows.

    p(c | x) = softmax_c( sum_k a_k z_kc(x) ),     a >= 0 minimises the mean of -log p(true class)

With one logit ``a`` is the inverse temperature; with two, a lexical model's and a network's, their ratio says whom
to believe, and ``a_2 = 0`` is the first alone. Convex with K unknowns: Newton's method.

Shapes: K logits, N rows, C classes.
Source: C. Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
"""

import torch
from torch import Tensor

STEPS = 30
RIDGE = 1e-6  # so that logits without any variation have a weight, and a perfect fit a finite one


def fit_blend(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """The weights ``a``, float64 (K).

    Args:
        labels_N: rows whose label lies beyond the classes do not count.

    >>> z = torch.tensor([[[3.0, 0.0]] * 3 + [[0.0, 3.0]]])  # always as sure, right 3 times of 4
    >>> a = fit_blend(z, torch.tensor([0, 0, 1, 1]))
    >>> round(torch.softmax(a[0] * z[0, 0], 0)[0].item(), 3)
    0.75
    """
    known = labels_N < logits_KNC.shape[2]
    logits_KNC, labels_N = logits_KNC[:, known].double(), labels_N[known]
    count = len(logits_KNC)
    if not len(labels_N):
        return torch.ones(count, dtype=torch.float64)
    active = list(range(count))
    while True:
        weights = torch.zeros(count, dtype=torch.float64)
        weights[active] = _newton(logits_KNC[active], labels_N)
        negative = [k for k in active if weights[k] < 0]
        if not negative or len(active) == 1:
            return weights.clamp(min=0)
        active.remove(min(negative, key=lambda k: float(weights[k])))


def blend_loss(weights_K: Tensor, logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """Mean of -log p(true class), with the small ridge that keeps the weights finite."""
    mixed_NC = torch.einsum("k,knc->nc", weights_K, logits_KNC)
    return torch.nn.functional.cross_entropy(mixed_NC, labels_N) + RIDGE / 2 * (weights_K**2).sum()


def _newton(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """Minimise ``blend_loss`` without bounds, by Newton steps that are halved until they descend."""
    weights = torch.full((len(logits_KNC),), 1.0 / len(logits_KNC), dtype=torch.float64)
    true_KN = logits_KNC.gather(2, labels_N[None, :, None].expand(len(logits_KNC), -1, 1))[..., 0]
    loss = blend_loss(weights, logits_KNC, labels_N)
    for _ in range(STEPS):
        p_NC = torch.softmax(torch.einsum("k,knc->nc", weights, logits_KNC), 1)
        mean_KN = torch.einsum("nc,knc->kn", p_NC, logits_KNC)
        gradient = (mean_KN - true_KN).mean(1) + RIDGE * weights
        centred_KNC = logits_KNC - mean_KN[..., None]
        hessian = torch.einsum("nc,knc,lnc->kl", p_NC, centred_KNC, centred_KNC) / len(labels_N)
        step = torch.linalg.solve(hessian + RIDGE * torch.eye(len(weights), dtype=torch.float64), gradient)
        size = 1.0
        while size > 1e-4 and blend_loss(weights - size * step, logits_KNC, labels_N) > loss:
            size /= 2
        new = weights - size * step
        new_loss = blend_loss(new, logits_KNC, labels_N)
        if not new_loss < loss:
            break
        done = bool(loss - new_loss < 1e-10)
        weights, loss = new, new_loss
        if done:
            break
    return weights
