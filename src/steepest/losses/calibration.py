"""Calibration: how much of each of several logits to believe, chosen on held-out rows.

    p(c | x) = softmax_c( sum_k a_k z_kc(x) ),     a >= 0 minimises the mean of -log p(true class)

The target of a row is not 1 for its class but (N + 1) / (N + 2) of N rows, the rule of succession: a few rows that are
all right do not make a model certain.

With one logit ``a`` is the inverse temperature; with two, a lexical model's and a network's, their ratio says whom
to believe, and ``a_2 = 0`` is the first alone. Convex with K unknowns: Newton's method.

Shapes: K logits, N rows, C classes.
Sources: C. Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599; the target,
J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
"""

import torch
from torch import Tensor

STEPS = 30
RIDGE = 1e-6  # so that logits without any variation have a weight


def fit_blend(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """The weights ``a``, float64 (K).

    Args:
        labels_N: rows whose label lies beyond the classes do not count.

    >>> z = torch.tensor([[[3.0, 0.0]] * 3 + [[0.0, 3.0]]])  # always as sure, right 3 times of 4
    >>> a = fit_blend(z, torch.tensor([0, 0, 1, 1]))
    >>> round(torch.softmax(a[0] * z[0, 0], 0)[0].item(), 2)  # (3 * 5/6 + 1 * 1/6) / 4
    0.67
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


def _newton(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """Minimise the loss without bounds, by Newton steps that are halved until they descend."""
    count, rows, classes = logits_KNC.shape
    share = (rows + 1) / (rows + 2)
    true_KN = logits_KNC.gather(2, labels_N[None, :, None].expand(count, -1, 1))[..., 0]
    others_KN = (logits_KNC.sum(2) - true_KN) / max(classes - 1, 1)
    target_K = (share * true_KN + (1 - share) * others_KN).mean(1)

    def loss_of(weights: Tensor) -> Tensor:
        mixed_NC = torch.einsum("k,knc->nc", weights, logits_KNC)
        return mixed_NC.logsumexp(1).mean() - weights @ target_K + RIDGE / 2 * weights @ weights

    weights = torch.full((count,), 1.0 / count, dtype=torch.float64)
    loss = loss_of(weights)
    for _ in range(STEPS):
        p_NC = torch.softmax(torch.einsum("k,knc->nc", weights, logits_KNC), 1)
        mean_KN = torch.einsum("nc,knc->kn", p_NC, logits_KNC)
        gradient = mean_KN.mean(1) - target_K + RIDGE * weights
        centred_KNC = logits_KNC - mean_KN[..., None]
        hessian = torch.einsum("nc,knc,lnc->kl", p_NC, centred_KNC, centred_KNC) / rows
        step = torch.linalg.solve(hessian + RIDGE * torch.eye(count, dtype=torch.float64), gradient)
        size = 1.0
        while size > 1e-4 and loss_of(weights - size * step) > loss:
            size /= 2
        new = weights - size * step
        gain = loss - loss_of(new)
        if not gain > 0:
            break
        weights, loss = new, loss - gain
        if gain < 1e-12:
            break
    return weights
