"""Scores: the figures people want, and how sure one can be of them.

``torchmetrics`` computes what it has. Two things are ours. A tie counts against the model: a prediction is right
only if the true class is strictly the likeliest, so a model that says the same of everything scores zero and not
one. And every figure has an interval: the percentile bootstrap, rows drawn with replacement.

Labels may name classes beyond the model's: texts whose class training never saw. They count, and are wrong.

Shapes: N rows, C classes.
Sources: B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; calibration error, M. Naeini et al.,
AAAI 2015; correlation of classes, J. Gorodkin, 2004.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.config import nearest
from steepest.errors import ConfigError

Rows = npt.NDArray[np.int64]
SMALLEST_PROBABILITY = 1e-15  # of a true class, so that one absurd row leaves the log loss finite
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Score:
    """A figure of merit for classification.

    Attributes:
        of: maps probabilities (N, C) and labels (N,) to the figure.
        lower_is_better: whether less is better.
        binary: it asks for two classes; the second is the positive one.
    """

    of: Callable[[Tensor, Tensor], float]
    lower_is_better: bool = False
    binary: bool = False


def classification_scores(
    probabilities_NC: Tensor, labels_N: Tensor, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Named scores of predicted probabilities.

    Args:
        probabilities_NC: float, rows that sum to 1.
        labels_N: int64 true classes; one beyond the columns is a class the model does not know.
        names: of ``CLASSIFICATION``; the quick ones if ``None``.

    >>> probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    >>> classification_scores(probabilities, torch.tensor([0, 1, 1]), ["accuracy"])  # a tie is not a hit
    {'accuracy': 0.6666666865348816}
    """
    labels_N, beyond = labels_N.long(), int(labels_N.max()) + 1 - probabilities_NC.shape[1]
    if beyond > 0:
        probabilities_NC = torch.nn.functional.pad(probabilities_NC, (0, beyond))
    return {
        name: CLASSIFICATION[name].of(probabilities_NC, labels_N)
        for name in (QUICK if names is None else names)
    }


def predict_against(probabilities_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The likeliest class of each row, (N,); where the true one shares that place, another one that does.

    >>> predict_against(torch.tensor([[0.5, 0.5], [0.3, 0.7]]), torch.tensor([0, 1])).tolist()
    [1, 1]
    """
    others_NC = probabilities_NC.scatter(1, labels_N[:, None], -torch.inf)
    rival, other_N = others_NC.max(1)
    own = probabilities_NC.gather(1, labels_N[:, None])[:, 0]
    return torch.where(own > rival, labels_N, other_N)


def bootstrap_interval(
    score: Callable[[Rows], float], n: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score over ``n`` rows.

    Args:
        score: the figure of the rows with these numbers (some of them several times).
        resamples: draws of ``n`` rows with replacement.
        level: share of the draws inside the interval.

    Returns:
        Its low and high end.

    >>> right = np.array([1.0] * 90 + [0.0] * 10)
    >>> low, high = bootstrap_interval(lambda rows: right[rows].mean(), 100)
    >>> bool(0.82 < low < 0.86), bool(0.94 < high < 0.97)
    (True, True)
    """
    generator = np.random.default_rng(seed)
    drawn = [score(generator.integers(0, n, n)) for _ in range(resamples)]
    found = np.array([value for value in drawn if value == value])
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score_interval(
    name: str, probabilities_NC: Tensor, labels_N: Tensor, *, resamples: int = 400, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of one classification score."""
    if name == "accuracy":  # a mean over rows: no need to ask torchmetrics every time
        beyond = max(0, int(labels_N.max()) + 1 - probabilities_NC.shape[1])
        padded_NC = torch.nn.functional.pad(probabilities_NC, (0, beyond))
        right = (predict_against(padded_NC, labels_N) == labels_N).double().numpy()
        return bootstrap_interval(lambda rows: float(right[rows].mean()), len(right), seed=seed)

    def resampled(rows: Rows) -> float:
        chosen = torch.from_numpy(rows)
        return classification_scores(probabilities_NC[chosen], labels_N[chosen], [name])[name]

    return bootstrap_interval(resampled, len(labels_N), resamples=resamples, seed=seed)


def check_metric(name: str, known: Iterable[str], objective: str) -> None:
    """Refuse a metric that an objective does not have.

    >>> check_metric("macro_f2", CLASSIFICATION, "classification")
    Traceback (most recent call last):
    ...
    steepest.errors.ConfigError: objective classification has no metric "macro_f2"; did you mean "macro_f1"? It has ...
    """
    known = list(known)
    if name not in known:
        raise ConfigError(
            f'objective {objective} has no metric "{name}"{nearest(name, known) or ";"} It has {", ".join(known)}'
        )


def accuracy(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Share of rows whose true class is strictly the likeliest."""
    from torchmetrics.functional.classification import multiclass_accuracy

    return float(multiclass_accuracy(*_guessed(probabilities_NC, labels_N), average="micro"))


def macro_f1(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Mean over the classes of 2 hits / (said + true); classes neither said nor true do not count."""
    from torchmetrics.functional.classification import multiclass_f1_score

    return float(multiclass_f1_score(*_guessed(probabilities_NC, labels_N), average="macro"))


def weighted_f1(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """The same mean, every class weighted by its rows."""
    from torchmetrics.functional.classification import multiclass_f1_score

    return float(multiclass_f1_score(*_guessed(probabilities_NC, labels_N), average="weighted"))


def f1(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """F1 of the second class, the positive one of two."""
    from torchmetrics.functional.classification import binary_f1_score

    guessed_N = predict_against(probabilities_NC, labels_N)
    return float(binary_f1_score((guessed_N == 1).long(), (labels_N == 1).long()))


def balanced_accuracy(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Mean over the classes that occur of the share of their rows that are found."""
    from torchmetrics.functional.classification import multiclass_recall

    guessed_N, _, classes = _guessed(probabilities_NC, labels_N)
    found_C = multiclass_recall(guessed_N, labels_N, classes, average="none")
    return float(found_C[torch.bincount(labels_N, minlength=classes) > 0].mean())


def matthews_correlation(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Correlation between said and true classes."""
    from torchmetrics.functional.classification import multiclass_matthews_corrcoef

    return float(multiclass_matthews_corrcoef(*_guessed(probabilities_NC, labels_N)))


def log_loss(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Mean of -log p(true class), in nats."""
    true_N = probabilities_NC.double().gather(1, labels_N[:, None])[:, 0]
    return float(-true_N.clamp(min=SMALLEST_PROBABILITY).log().mean())


def calibration_error(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Mean distance between confidence and accuracy, over bins of confidence."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    classes = probabilities_NC.shape[1]
    return float(multiclass_calibration_error(probabilities_NC, labels_N, classes, n_bins=BINS, norm="l1"))


def roc_auc(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Chance that a row of a class ranks above one of another; of the second class of two, else their mean."""
    from torchmetrics.functional.classification import binary_auroc

    return _one_against_rest(binary_auroc, probabilities_NC, labels_N)


def average_precision(probabilities_NC: Tensor, labels_N: Tensor) -> float:
    """Area under the curve of precision over recall; of the second class of two, else the classes' mean."""
    from torchmetrics.functional.classification import binary_average_precision

    return _one_against_rest(binary_average_precision, probabilities_NC, labels_N)


CLASSIFICATION: dict[str, Score] = {
    "accuracy": Score(accuracy),
    "macro_f1": Score(macro_f1),
    "weighted_f1": Score(weighted_f1),
    "f1": Score(f1, binary=True),
    "balanced_accuracy": Score(balanced_accuracy),
    "matthews_correlation": Score(matthews_correlation),
    "roc_auc": Score(roc_auc),
    "average_precision": Score(average_precision),
    "log_loss": Score(log_loss, lower_is_better=True),
    "calibration_error": Score(calibration_error, lower_is_better=True),
}
QUICK = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")


def _guessed(probabilities_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, int]:
    return predict_against(probabilities_NC, labels_N), labels_N, probabilities_NC.shape[1]


def _one_against_rest(
    score: Callable[[Tensor, Tensor], Tensor], probabilities_NC: Tensor, labels_N: Tensor
) -> float:
    """The mean of a binary score over the classes that have rows inside and outside; nan if none has."""
    classes = range(1, 2) if probabilities_NC.shape[1] == 2 else range(probabilities_NC.shape[1])
    counts = torch.bincount(labels_N, minlength=probabilities_NC.shape[1])
    found = [
        float(score(probabilities_NC[:, c], (labels_N == c).long()))
        for c in classes
        if 0 < counts[c] < len(labels_N)
    ]
    return float(np.mean(found)) if found else float("nan")
