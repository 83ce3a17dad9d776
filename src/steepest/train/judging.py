"""How good predictions are, with intervals, beside what baselines say of the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.data.labelled import Labelled
from steepest.data.labelled_split import numbers_of
from steepest.lexical import Bag, fit_baselines
from steepest.objectives.scores import QUICK, classification_scores, score_interval


@dataclass(frozen=True)
class Predictions:
    """Labels and calibrated probabilities of some texts.

    Attributes:
        names: of the classes.
        probabilities: float32 (texts, classes).

    >>> Predictions(("ham", "spam"), np.array([[0.2, 0.8]])).labels
    ['spam']
    """

    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each text."""
        return [self.names[at] for at in self.probabilities.argmax(1)]


def judge(metric: str, probabilities_NC: Tensor, labels_N: Tensor) -> dict[str, Any]:
    """Scores of some predictions, with the bootstrap interval of the metric."""
    names = dict.fromkeys([metric, *QUICK, "calibration_error"])
    return {
        **classification_scores(probabilities_NC, labels_N, names),
        "interval": score_interval(metric, probabilities_NC, labels_N),
        "rows": len(labels_N),
    }


def judge_baselines(
    bag: Bag, train: Labelled, parts: Mapping[str, Labelled], names: tuple[str, ...], metric: str
) -> dict[str, dict[str, Any]]:
    """Scores of the baselines by part and name, each with the seconds that its fit took."""
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for name, (model, seconds) in fit_baselines(bag, numbers_of(train, names), len(names)).items():
        for part, rows in parts.items():
            probabilities_NC = torch.from_numpy(np.exp(model.log_probabilities(rows.texts)))
            scores = judge(metric, probabilities_NC, torch.from_numpy(numbers_of(rows, names)))
            found[part][name] = {**scores, "seconds": round(seconds, 2)}
    return found


def winner(judged: dict[str, Any], metric: str, lower: bool) -> str:
    """Who is best on the test part, or on the development part if there is none; "steepest" if equal."""
    named = judged.get("test", judged["development"])
    figures = {name: one[metric] for name, one in named.items() if one[metric] == one[metric]}
    return (min if lower else max)(figures, key=lambda name: figures[name]) if figures else "steepest"
