"""Contrastive losses against their formulas written out, finite differences in float64, and other people's code."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from steepest.losses import (
    cosent_loss,
    info_nce,
    matryoshka,
    semi_hard_triplet_loss,
    sigmoid_loss,
    supervised_info_nce,
)
from steepest.losses.tiled import tiled_logsumexp


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def dense_scores(q: Tensor, k: Tensor, scale: Tensor | float, groups: tuple[Tensor, Tensor] | None) -> Tensor:
    """The whole matrix, group mates hidden but for the own key: the slow twin."""
    scores = q @ k.T * scale
    if groups is not None:
        same = groups[0][:, None] == groups[1][None]
        own = torch.zeros_like(same).fill_diagonal_(True)
        scores = scores.masked_fill(same & ~own, -torch.inf)
    return scores


GROUPS = torch.tensor([0, 1, 2, 1, 4, 2, 2])


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce_is_cross_entropy_of_the_dense_matrix(groups: Tensor | None, symmetric: bool) -> None:
    q, k = unit(7, 5, seed=1), unit(7, 5, seed=2)
    scores = dense_scores(q, k, 9.0, None if groups is None else (groups, groups))
    truth = torch.arange(7)
    expected = F.cross_entropy(scores, truth)
    if symmetric:
        expected = (expected + F.cross_entropy(scores.T, truth)) / 2
    found = info_nce(q, k, scale=9.0, groups_N=groups, symmetric=symmetric, tile=3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_info_nce_of_a_collapsed_batch_is_the_log_of_its_size() -> None:
    z = torch.ones(10, 3, dtype=torch.float64) / math.sqrt(3)
    assert info_nce(z, z, scale=50.0).item() == pytest.approx(math.log(10), rel=1e-12)


def test_hard_negatives_are_seen_by_queries_only() -> None:
    q, k, extra = unit(4, 5, seed=1), unit(4, 5, seed=2), unit(3, 5, seed=3)
    scores = dense_scores(q, torch.cat([k, extra]), 5.0, None)
    truth = torch.arange(4)
    expected = (F.cross_entropy(scores, truth) + F.cross_entropy(scores[:, :4].T, truth)) / 2
    torch.testing.assert_close(info_nce(q, torch.cat([k, extra]), scale=5.0), expected, rtol=1e-12, atol=0)


def test_a_duplicate_is_never_a_negative() -> None:
    """The same pair twice gives the loss of having it once more as a pair that the others see."""
    q, k = unit(3, 4, seed=1), unit(3, 4, seed=2)
    twice = torch.tensor([0, 1, 2, 0])
    masked = info_nce(q[twice], k[twice], scale=3.0, groups_N=twice, symmetric=False)
    rows = torch.logsumexp(
        torch.cat([q @ k.T, (q @ k[:1].T).masked_fill(torch.eye(3)[:, :1] > 0, -torch.inf)], 1) * 3, 1
    )
    own = (q * k).sum(1) * 3
    expected = (rows - own)[twice].mean()
    torch.testing.assert_close(masked, expected, rtol=1e-12, atol=0)


def test_supervised_info_nce_by_hand() -> None:
    z, labels = unit(6, 4), torch.tensor([0, 0, 1, 1, 1, 2])
    losses = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        mates = [j for j in others if labels[j] == labels[i]]
        if mates:
            rest = torch.logsumexp(torch.stack([7 * z[i] @ z[j] for j in others]), 0)
            losses.append(rest - torch.stack([7 * z[i] @ z[j] for j in mates]).mean())
    found = supervised_info_nce(z, labels, scale=7.0, tile=4)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-12, atol=0)
    assert supervised_info_nce(z, torch.arange(6), scale=7.0) == 0


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_sigmoid_loss_by_hand(groups: Tensor | None) -> None:
    q, k = unit(7, 5, seed=1), unit(7, 5, seed=2)
    scale, bias = torch.tensor(4.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j and groups is not None and groups[i] == groups[j]:
                continue
            sign = 1.0 if i == j else -1.0
            total += math.log1p(math.exp(-sign * (4.0 * float(q[i] @ k[j]) - 2.0)))
    assert sigmoid_loss(q, k, scale=scale, bias=bias, groups_N=groups, tile=3).item() == pytest.approx(
        total / 7, rel=1e-12
    )


def test_triplet_picks_semi_hard_negatives() -> None:
    z = torch.tensor([[0.0], [1.0], [0.5], [1.2], [3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1])
    found = semi_hard_triplet_loss(z, labels, margin=1.0)
    hinges = []
    for a in range(5):
        for p in range(5):
            if a == p or labels[a] != labels[p]:
                continue
            near = (z[a] - z[p]).square().item()
            negatives = [(z[a] - z[n]).square().item() for n in range(5) if labels[n] != labels[a]]
            farther = [d for d in negatives if d > near]
            hinges.append(max(0.0, near - (min(farther) if farther else max(negatives)) + 1.0))
    assert found.item() == pytest.approx(sum(hinges) / len(hinges), rel=1e-12)
    assert semi_hard_triplet_loss(z, torch.arange(5)) == 0
    assert semi_hard_triplet_loss(z, torch.zeros(5, dtype=torch.int64)) == 0


def test_cosent_by_hand_and_blind_to_ties() -> None:
    a, b, scores = unit(5, 4, seed=1), unit(5, 4, seed=2), torch.tensor([1.0, 3.0, 3.0, 0.0, 2.0])
    cosines = (a * b).sum(1)
    total = 1.0
    for i in range(5):
        for j in range(5):
            if scores[i] > scores[j]:
                total += math.exp(6.0 * float(cosines[j] - cosines[i]))
    assert cosent_loss(a, b, scores, scale=6.0).item() == pytest.approx(math.log(total), rel=1e-12)
    assert cosent_loss(a, b, torch.ones(5), scale=6.0) == 0


def test_matryoshka_is_the_weighted_sum_over_widths() -> None:
    z = unit(4, 8) * 3
    found = matryoshka(lambda x: x.square().sum() + x[:, 0].sum(), z, dims=(8, 4), weights=(0.25, 0.75))
    parts = [4 + F.normalize(z[:, :dim], dim=1)[:, 0].sum() for dim in (8, 4)]
    torch.testing.assert_close(found, 0.25 * parts[0] + 0.75 * parts[1])
    with pytest.raises(ValueError, match="between 1 and 8"):
        matryoshka(lambda x: x.sum(), z, dims=(16,))


def test_gradients_are_finite_differences() -> None:
    q, k, extra = (unit(n, 3, seed=n).requires_grad_() for n in (5, 6, 2))
    k = unit(5, 3, seed=9).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    groups, extra_groups = torch.tensor([0, 1, 0, 3, 4]), torch.tensor([3, 7])
    both = torch.cat([groups, extra_groups])
    labels = torch.tensor([0, 0, 1, 1, 2])
    check = torch.autograd.gradcheck
    assert check(lambda q, k, s: info_nce(q, k, scale=s, groups_N=groups, tile=2), (q, k, scale))
    assert check(
        lambda q, k, e, s: info_nce(
            q, torch.cat([k, e]), scale=s, groups_N=groups, key_groups_M=both, tile=3
        ),
        (q, k, extra, scale),
    )
    assert check(lambda z, s: supervised_info_nce(z, labels, scale=s, tile=2), (q, scale))
    assert check(
        lambda q, k, s, b: sigmoid_loss(q, k, scale=s, bias=b, groups_N=groups, tile=2), (q, k, scale, bias)
    )
    assert check(lambda z: semi_hard_triplet_loss(z, labels, margin=0.9), (q,))
    assert check(lambda a, b, s: cosent_loss(a, b, torch.arange(5.0), scale=s), (q, k, scale))
    assert check(lambda z: matryoshka(lambda x: x[:, 0].sum(), z, dims=(3, 2)), (q,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_tiled_equals_dense(dtype: torch.dtype, scale: float) -> None:
    """Value and gradient of both log-sum-exps, with a mask, on sizes that no tile divides."""
    q, k = unit(150, 16, seed=1, dtype=dtype), unit(190, 16, seed=2, dtype=dtype)
    factor = torch.tensor(scale, dtype=dtype)
    groups = torch.arange(150) % 40, torch.arange(190) % 50
    rows_weight, columns_weight = torch.rand(150, dtype=dtype), torch.rand(190, dtype=dtype)
    results = []
    for tiled in (True, False):
        leaves = [x.clone().requires_grad_() for x in (q, k, factor)]
        if tiled:
            rows, columns = tiled_logsumexp(
                *leaves, query_groups_N=groups[0], key_groups_M=groups[1], tile=64
            )
        else:
            scores = dense_scores(*leaves, groups)
            rows, columns = scores.logsumexp(1), scores.logsumexp(0)
        (rows @ rows_weight + columns @ columns_weight).backward()
        results.append([rows, columns, *(leaf.grad for leaf in leaves)])
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm()


def test_a_row_that_sees_nothing_is_minus_infinity_and_gives_no_gradient() -> None:
    q, k = unit(3, 4).requires_grad_(), unit(3, 4, seed=1).requires_grad_()
    same = torch.tensor([0, 0, 0])
    rows, _ = tiled_logsumexp(q, k, 2.0, query_groups_N=same, key_groups_M=same, own=False)
    assert (rows == -torch.inf).all()
    rows, columns = tiled_logsumexp(
        q, k, 2.0, query_groups_N=torch.tensor([0, 1, 2]), key_groups_M=same, own=False
    )
    assert rows[0] == -torch.inf and rows[1:].isfinite().all()
    (rows[1:].sum() + columns.sum()).backward()
    assert q.grad is not None and (q.grad[0] == 0).all() and q.grad.isfinite().all()


def test_scores_far_apart_do_not_overflow() -> None:
    q = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    rows, columns = tiled_logsumexp(q, q, 1000.0, tile=1)
    torch.testing.assert_close(rows, torch.tensor([1000.0, 1000.0]))
    torch.testing.assert_close(columns, torch.tensor([1000.0, 1000.0]))


def test_misuse_is_said_in_words() -> None:
    with pytest.raises(ValueError, match="a key for every query"):
        info_nce(unit(3, 2), unit(2, 2), scale=1.0)
    with pytest.raises(ValueError, match="groups of all keys"):
        info_nce(unit(2, 2), unit(3, 2), scale=1.0, groups_N=torch.arange(2))
    with pytest.raises(ValueError, match="or neither"):
        tiled_logsumexp(unit(2, 2), unit(3, 2), query_groups_N=torch.arange(2))
    with pytest.raises(ValueError, match="and keys"):
        tiled_logsumexp(unit(2, 2), unit(3, 4))
