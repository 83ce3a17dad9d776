"""Calibration: held to scipy's minimiser, never negative, never certain of little."""

import numpy as np
import torch
from scipy.optimize import minimize

from steepest.losses.calibration import fit_blend


def problem(rows: int = 400, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=dice)
    truth = torch.nn.functional.one_hot(labels, classes).float()
    noise = torch.randn(2, rows, classes, generator=dice)
    return torch.stack([1.5 * truth + noise[0], 4 * truth + 5 * noise[1]]), labels


def test_the_weights_are_the_minimum() -> None:
    logits, labels = problem()
    rows, classes = logits.shape[1:]
    share = (rows + 1) / (rows + 2)
    target = np.full((rows, classes), (1 - share) / (classes - 1))
    target[np.arange(rows), labels] = share

    def loss(weights: np.ndarray) -> float:
        mixed = np.einsum("k,knc->nc", weights, logits.double().numpy())
        return float(-(target * (mixed - np.log(np.exp(mixed).sum(1, keepdims=True)))).sum(1).mean())

    found = minimize(loss, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
    assert np.abs(fit_blend(logits, labels).numpy() - found).max() < 1e-4


def test_what_speaks_against_the_truth_is_not_believed() -> None:
    logits, labels = problem()
    blend = fit_blend(torch.stack([logits[0], -logits[1]]), labels)
    assert blend[1] == 0
    assert torch.allclose(blend[:1], fit_blend(logits[:1], labels))


def test_a_few_rows_that_are_right_make_nothing_certain() -> None:
    logits = torch.tensor([[[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]]])
    scale = fit_blend(logits, torch.tensor([0, 1, 0]))
    assert abs(torch.softmax(scale[0] * logits[0, 0], 0)[0].item() - 4 / 5) < 1e-3


def test_rows_of_unknown_classes_do_not_count_and_nothing_at_all_is_one() -> None:
    logits, labels = problem()
    more = torch.cat([logits, torch.randn(2, 50, 3)], dim=1)
    assert torch.equal(fit_blend(more, torch.cat([labels, torch.full((50,), 3)])), fit_blend(logits, labels))
    assert fit_blend(logits[:, :0], labels[:0]).tolist() == [1.0, 1.0]
