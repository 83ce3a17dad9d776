"""The lexical model: a linear classifier on TF-IDF features, as log-probabilities.

    log p(c | x) = a (w_c . x + b_c) - log sum_c' exp(...)

Each class's (w, b) separates it from the rest by the largest margin (a support vector machine with squared hinge
loss, by dual coordinate descent: a third of the time of a regression, and a little more often right); ``a``, one
number, makes the margins probabilities.

A network that starts from it is given these log-probabilities. For the texts that the classifier was fitted to they are
far too sure, so theirs are *cross-fitted*: each comes from a classifier that has not seen the text (nor its
duplicates), and the network learns what the lexical model does not know instead of what it has by heart.

The baselines beside a result are plain multinomial regressions, on words and on characters.

Shapes: N texts, F features, C classes.
Sources: R. Fan et al., "LIBLINEAR", JMLR 2008; cross-fitting, D. Wolpert, "Stacked Generalization", 1992; scaling,
J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
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
import torch

from steepest.errors import CheckpointError
from steepest.lexical.features import Bag, View, transform
from steepest.losses.calibration import fit_blend

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Fitted = tuple[Floats, Floats]  # weights (F, C), bias (C)

STRENGTHS = (0.1, 0.3, 1.0)  # the machine's C, to choose from: large means little regularisation
REGRESSION_STRENGTH = 10.0
STEPS, TOLERANCE = 60, 1e-5  # of L-BFGS, at most; of the largest gradient (a mean over texts, so small)
DEAR = 2.5e8  # features x classes of all texts, above which fewer folds are made
FOLDS, FEW_FOLDS = 5, 3
BASELINES = {
    "words": "TF-IDF of words + logistic regression",
    "characters": "TF-IDF of characters + logistic regression",
    "strings": "TF-IDF of characters + logistic regression",
}


@dataclass(frozen=True)
class LexicalModel:
    """A fitted classifier, its scale in the weights.

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


@dataclass(frozen=True)
class CrossFit:
    """What cross-fitting found.

    Attributes:
        log_probabilities_NC: of every text, from classifiers that have not seen it.
        strength: the one whose probabilities were best on the first fold.
        scale: what makes margins probabilities.
    """

    log_probabilities_NC: Floats
    strength: float
    scale: float


def cross_fit(
    bag: Bag, texts: Sequence[str], labels_N: Labels, classes: int, *,
    strengths: Sequence[float] = STRENGTHS, most_folds: int = FOLDS,
) -> CrossFit:  # fmt: skip
    """Log-probabilities of texts from classifiers that have not seen them.

    Folds are made by a hash of the text, so equal texts are left out together. Terms and their IDF are those of all
    texts, for they know no labels.
    """
    matrix = bag.matrix
    folds = min(most_folds, FOLDS if matrix.nnz * classes <= DEAR else FEW_FOLDS)
    fold_N = np.array([zlib.crc32(text.encode()) % folds for text in texts])
    parts = [(np.flatnonzero(fold_N == k), np.flatnonzero(fold_N != k)) for k in range(folds)]

    def margins(part: tuple[Labels, Labels], strength: float) -> Floats:
        inside, outside = part
        weights_FC, bias_C = separate(matrix[outside], labels_N[outside], classes, strength=strength)
        found: Floats = matrix[inside] @ weights_FC + bias_C
        return found

    first = {strength: margins(parts[0], strength) for strength in strengths}
    losses = {c: _scaled(found, labels_N[parts[0][0]])[1] for c, found in first.items()}
    strength = min(losses, key=lambda c: losses[c])
    margins_NC = np.empty((len(texts), classes), dtype=np.float32)
    for k, part in enumerate(parts):
        margins_NC[part[0]] = first[strength] if k == 0 else margins(part, strength)
    scale, _ = _scaled(margins_NC, labels_N)
    return CrossFit(log_softmax(scale * margins_NC), strength, scale)


def fit_lexical(
    bag: Bag, labels_N: Labels, classes: int, *, strength: float = 1.0, scale: float = 1.0
) -> LexicalModel:
    """Fit a classifier on texts as some views see them.

    Args:
        labels_N: int64, 0 .. classes - 1; a class without a text stays below all others.

    >>> from steepest.lexical.features import make_bag
    >>> bag = make_bag(["words"], ["good", "so good", "bad", "so bad"])
    >>> model = fit_lexical(bag, np.array([1, 1, 0, 0]), 2)
    >>> model.log_probabilities(["good", "bad bad"]).argmax(1).tolist()
    [1, 0]
    """
    weights_FC, bias_C = separate(bag.matrix, labels_N, classes, strength=strength)
    return LexicalModel(bag.views, np.float32(scale) * weights_FC, np.float32(scale) * bias_C)


def fit_baselines(bag: Bag, labels_N: Labels, classes: int) -> dict[str, tuple[LexicalModel, float]]:
    """What a result is held against: a regression on words and one on characters, each with its seconds."""
    found = {}
    for view in bag.views:
        if view.name in BASELINES:
            began, part = time.perf_counter(), bag.select(view.name)
            model = LexicalModel(part.views, *regress(part.matrix, labels_N, classes))
            found[BASELINES[view.name]] = (model, part.seconds[0] + time.perf_counter() - began)
    return found


def separate(matrix: Any, labels_N: Labels, classes: int, *, strength: float) -> Fitted:
    """Weights (F, C) and bias (C) of the machines that part each class from the rest."""
    from sklearn.svm import LinearSVC

    return _fit(LinearSVC(C=strength, dual=True, random_state=0), matrix, labels_N, classes)


def regress(matrix: Any, labels_N: Labels, classes: int, *, strength: float = REGRESSION_STRENGTH) -> Fitted:
    """Weights (F, C) and bias (C) of the multinomial regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=STEPS, tol=TOLERANCE)
    return _fit(model, matrix, labels_N, classes)


def _fit(model: Any, matrix: Any, labels_N: Labels, classes: int) -> Fitted:
    from sklearn.exceptions import ConvergenceWarning

    weights_FC = np.zeros((matrix.shape[1], classes), dtype=np.float32)
    seen = np.unique(labels_N)
    if len(seen) < 2:
        bias_C = np.full(classes, -1.0, dtype=np.float32)
        bias_C[seen] = 1.0
        return weights_FC, bias_C
    with warnings.catch_warnings():  # stopped before its tolerance: that only regularises
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, labels_N)
    rows_KF, bias_K = model.coef_, model.intercept_
    if len(seen) == 2:  # one margin for two classes
        rows_KF, bias_K = np.concatenate([-rows_KF, rows_KF]) / 2, np.append(-bias_K, bias_K) / 2
    bias_C = np.full(classes, bias_K.min() - 1, dtype=np.float32)
    weights_FC[:, seen], bias_C[seen] = rows_KF.T, bias_K
    return weights_FC, bias_C


def _scaled(margins_NC: Floats, labels_N: Labels) -> tuple[float, float]:
    """The scale that makes margins probabilities, and the log loss with it."""
    margins, labels = torch.from_numpy(margins_NC), torch.from_numpy(labels_N)
    scale = float(fit_blend(margins[None], labels)[0])
    loss = torch.nn.functional.cross_entropy(scale * margins, labels)
    return scale, float(loss)


def log_softmax(logits_NC: npt.NDArray[Any]) -> Floats:
    """Logits as log-probabilities.

    >>> np.exp(log_softmax(np.zeros((1, 4)))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    shifted = logits_NC - logits_NC.max(1, keepdims=True)
    result: Floats = (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)
    return result
