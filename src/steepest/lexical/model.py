"""The lexical model: multinomial logistic regression on TF-IDF features.

    log p(c | x) = w_c . x + b_c - log sum_c' exp(...),     minimised: sum of -log p + |w|^2 / (2 strength)

A network that starts from it is given its log-probabilities. For the texts that the regression was fitted to these
are far too sure, so theirs are *cross-fitted*: each comes from a regression that has not seen the text (nor its
duplicates), and the network learns what the lexical model does not know instead of what it has by heart.

Shapes: N texts, F features, C classes.
Sources: D. Cox, "The Regression Analysis of Binary Sequences", 1958; cross-fitting, D. Wolpert, "Stacked
Generalization", 1992.
"""

import json
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.errors import CheckpointError
from steepest.lexical.features import Bag, View, transform

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

STRENGTH = 10.0  # the regression's C: large means little regularisation
STEPS = 100  # of L-BFGS, at most
DEAR = 2.5e8  # features x classes of all texts, above which fewer folds are made
FOLDS, FEW_FOLDS = 5, 3
BASELINES = {
    "words": "TF-IDF of words + logistic regression",
    "characters": "TF-IDF of characters + logistic regression",
    "strings": "TF-IDF of characters + logistic regression",
}


@dataclass(frozen=True)
class LexicalModel:
    """A fitted regression.

    Attributes:
        views: what its features are.
        weights_FC: float32.
        bias_C: float32.
    """

    views: tuple[View, ...]
    weights_FC: Floats
    bias_C: Floats

    def log_probabilities(self, texts: Sequence[str]) -> Floats:
        """Log-probability of each class for each text, float32 (N, C)."""
        return log_softmax(transform(self.views, texts) @ self.weights_FC + self.bias_C)

    def save(self, folder: Path) -> None:
        """Write ``lexical.json`` and ``lexical.safetensors``."""
        from safetensors.numpy import save_file

        tensors = {"weights_FC": np.ascontiguousarray(self.weights_FC), "bias_C": self.bias_C}
        tensors |= {f"idf.{view.name}": view.idf for view in self.views}
        terms = {view.name: view.terms for view in self.views}
        save_file(tensors, folder / "lexical.safetensors")
        (folder / "lexical.json").write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LexicalModel":
        """Read what ``save`` wrote; what cannot be read is a ``CheckpointError``."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(folder / "lexical.safetensors")
            terms = json.loads((folder / "lexical.json").read_text(encoding="utf-8"))
            views = tuple(View(name, terms[name], tensors[f"idf.{name}"]) for name in terms)
            return cls(views, tensors["weights_FC"], tensors["bias_C"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: its lexical model cannot be read: {error}") from None


def fit_lexical(bag: Bag, labels_N: Labels, classes: int, *, strength: float = STRENGTH) -> LexicalModel:
    """Fit a regression on texts as some views see them.

    Args:
        labels_N: int64, 0 .. classes - 1; a class without a text stays all but impossible.

    >>> from steepest.lexical.features import make_bag
    >>> bag = make_bag(["words"], ["good", "so good", "bad", "so bad"])
    >>> model = fit_lexical(bag, np.array([1, 1, 0, 0]), 2)
    >>> model.log_probabilities(["good", "bad bad"]).argmax(1).tolist()
    [1, 0]
    """
    return LexicalModel(bag.views, *regress(bag.matrix, labels_N, classes, strength=strength))


def cross_fit(
    bag: Bag, texts: Sequence[str], labels_N: Labels, classes: int, *, strength: float = STRENGTH
) -> Floats:
    """Log-probabilities of texts from regressions that have not seen them, float32 (N, C).

    Folds are made by a hash of the text, so equal texts are left out together. Terms and their IDF are those of all
    texts, for they know no labels.
    """
    matrix = bag.matrix
    folds = FOLDS if matrix.nnz * classes <= DEAR else FEW_FOLDS
    fold_N = np.array([zlib.crc32(text.encode()) % folds for text in texts])
    cross_NC = np.empty((len(texts), classes), dtype=np.float32)
    for fold in range(folds):
        inside, outside = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        if len(inside):
            weights_FC, bias_C = regress(matrix[outside], labels_N[outside], classes, strength=strength)
            cross_NC[inside] = log_softmax(matrix[inside] @ weights_FC + bias_C)
    return cross_NC


def fit_baselines(bag: Bag, labels_N: Labels, classes: int) -> dict[str, tuple[LexicalModel, float]]:
    """What a result is held against: a regression on words and one on characters, each with its seconds."""
    found = {}
    for view in bag.views:
        if view.name in BASELINES:
            began, part = time.perf_counter(), bag.select(view.name)
            model = fit_lexical(part, labels_N, classes)
            found[BASELINES[view.name]] = (model, part.seconds[0] + time.perf_counter() - began)
    return found


def regress(matrix: Any, labels_N: Labels, classes: int, *, strength: float) -> tuple[Floats, Floats]:
    """Weights (F, C) and bias (C) of the multinomial regression on a sparse matrix (N, F)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weights_FC = np.zeros((matrix.shape[1], classes), dtype=np.float32)
    bias_C = np.full(classes, -np.log(10.0 * max(len(labels_N), 1)), dtype=np.float32)
    seen = np.unique(labels_N)
    if len(seen) < 2 or matrix.shape[1] == 0:
        counts = np.bincount(labels_N, minlength=classes)
        bias_C[seen] = np.log(counts[seen] / max(len(labels_N), 1))
        return weights_FC, bias_C
    model = LogisticRegression(C=strength, max_iter=STEPS, tol=1e-3)
    with warnings.catch_warnings():  # L-BFGS stopped before its tolerance: that only regularises
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, labels_N)
    rows_KF, bias_K = model.coef_, model.intercept_
    if len(seen) == 2:  # one logit for two classes
        rows_KF, bias_K = np.concatenate([0 * rows_KF, rows_KF]), np.append(0.0, bias_K)
    weights_FC[:, seen] = rows_KF.T
    bias_C[seen] = bias_K
    bias_C[np.setdiff1d(np.arange(classes), seen)] += float(bias_K.mean())
    return weights_FC, bias_C


def log_softmax(logits_NC: npt.NDArray[Any]) -> Floats:
    """Logits as log-probabilities.

    >>> np.exp(log_softmax(np.zeros((1, 4)))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    shifted = logits_NC - logits_NC.max(1, keepdims=True)
    result: Floats = (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)
    return result
