"""Scores against scikit-learn; ties against the model; intervals against the binomial."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from steepest.errors import ConfigError
from steepest.objectives.scores import (
    CLASSIFICATION,
    bootstrap_interval,
    check_metric,
    classification_scores,
    predict_against,
    score_interval,
)


def predictions(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels] += 1.0
    return logits.softmax(1), labels


ORACLES = {
    "accuracy": lambda p, y: sk.accuracy_score(y, p.argmax(1)),
    "macro_f1": lambda p, y: sk.f1_score(y, p.argmax(1), average="macro"),
    "weighted_f1": lambda p, y: sk.f1_score(y, p.argmax(1), average="weighted"),
    "balanced_accuracy": lambda p, y: sk.balanced_accuracy_score(y, p.argmax(1)),
    "matthews_correlation": lambda p, y: sk.matthews_corrcoef(y, p.argmax(1)),
    "log_loss": lambda p, y: sk.log_loss(y, p),
}


@pytest.mark.parametrize("name", [*ORACLES, "roc_auc", "average_precision", "f1"])
@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_scikit_learns(name: str, classes: int) -> None:
    probabilities, labels = predictions(300, classes, seed=classes)
    mine = classification_scores(probabilities, labels, [name])[name]
    p, y = probabilities.numpy(), labels.numpy()
    if name == "f1":
        theirs = sk.f1_score(y == 1, p.argmax(1) == 1)
    elif name in ("roc_auc", "average_precision"):
        score = sk.roc_auc_score if name == "roc_auc" else sk.average_precision_score
        which = [1] if classes == 2 else range(classes)
        theirs = np.mean([score(y == c, p[:, c]) for c in which])
    else:
        theirs = ORACLES[name](p, y)
    assert mine == pytest.approx(theirs, abs=2e-6)


def test_calibration_error_by_its_definition() -> None:
    probabilities, labels = predictions(500, 4, seed=3)
    confidence, guess = probabilities.max(1)
    bins = (confidence * 15).long().clamp(max=14)
    expected = sum(
        (bins == b).double().mean()
        * abs(confidence[bins == b].mean() - (guess == labels)[bins == b].double().mean())
        for b in range(15)
        if (bins == b).any()
    )
    mine = classification_scores(probabilities, labels, ["calibration_error"])["calibration_error"]
    assert mine == pytest.approx(float(expected), abs=1e-6)


def test_a_collapsed_model_scores_zero() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    assert classification_scores(torch.full((4, 3), 1 / 3), labels, ["accuracy"])["accuracy"] == 0.0
    assert (predict_against(torch.full((4, 3), 1 / 3), labels) != labels).all()


def test_absent_classes_are_treated_as_scikit_learn_does() -> None:
    probabilities, _ = predictions(200, 5, seed=9)
    labels = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    p, y = probabilities.argmax(1).numpy(), labels.numpy()
    mine = classification_scores(probabilities, labels, ["macro_f1", "balanced_accuracy", "roc_auc"])
    assert mine["macro_f1"] == pytest.approx(sk.f1_score(y, p, average="macro"), abs=1e-6)
    with pytest.warns(UserWarning):
        assert mine["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p), abs=1e-6)
    each = [sk.roc_auc_score(y == c, probabilities[:, c].numpy()) for c in range(3)]
    assert mine["roc_auc"] == pytest.approx(np.mean(each), abs=1e-6)


def test_classes_the_model_does_not_know_are_wrong() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    scores = classification_scores(probabilities, torch.tensor([0, 1, 5]), ["accuracy", "log_loss"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["log_loss"] > 10


def test_bootstrap_interval_of_a_mean_is_the_binomials() -> None:
    right = np.zeros(400)
    right[:300] = 1
    low, high = bootstrap_interval(lambda rows: float(right[rows].mean()), 400, resamples=2000)
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - error, abs=0.008)
    assert high == pytest.approx(0.75 + error, abs=0.008)


def test_score_intervals_hold_their_score() -> None:
    probabilities, labels = predictions(200, 3, seed=4)
    for name in ("accuracy", "macro_f1", "log_loss"):
        low, high = score_interval(name, probabilities, labels, resamples=50)
        assert low < classification_scores(probabilities, labels, [name])[name] < high


def test_a_metric_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match='did you mean "accuracy"'):
        check_metric("acuracy", CLASSIFICATION, "classification")
