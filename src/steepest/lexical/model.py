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
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.errors import CheckpointError
from steepest.lexical.features import View, fit_views, transform

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

STRENGTH = 10.0  # the regression's C: large means little regularisation
STEPS = 100  # of L-BFGS, at most
DEAR = 2.5e8  # features x classes of all texts, above which fewer folds are made
FOLDS, FEW_FOLDS = 5, 3


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


def fit_lexical(
    names: Sequence[str], texts: Sequence[str], labels_N: Labels, classes: int, *, strength: float = STRENGTH
) -> LexicalModel:
    """Fit a regression on some views of labelled texts.

    Args:
        names: of views, see ``features``.
        labels_N: int64, 0 .. classes - 1; a class without a text stays all but impossible.

    >>> model = fit_lexical(["words"], ["good", "so good", "bad", "so bad"], np.array([1, 1, 0, 0]), 2)
    >>> model.log_probabilities(["good", "bad bad", ""]).argmax(1)[:2].tolist()
    [1, 0]
    """
    views, matrix = fit_views(names, texts)
    return LexicalModel(tuple(views), *regress(matrix, labels_N, classes, strength=strength))


def cross_fit(
    names: Sequence[str], texts: Sequence[str], labels_N: Labels, classes: int, *, strength: float = STRENGTH
) -> tuple[LexicalModel, Floats]:
    """Fit a regression; returns it and the cross-fitted log-probabilities of its own texts (N, C).

    Folds are made by a hash of the text, so equal texts are left out together. Terms and their IDF are learnt
    from all texts, for they know no labels.
    """
    views, matrix = fit_views(names, texts)
    weights_FC, bias_C = regress(matrix, labels_N, classes, strength=strength)
    folds = FOLDS if matrix.nnz * classes <= DEAR else FEW_FOLDS
    fold_N = np.array([zlib.crc32(text.encode()) % folds for text in texts])
    cross_NC = np.empty((len(texts), classes), dtype=np.float32)
    for fold in range(folds):
        inside, outside = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        if not len(inside):
            continue
        fitted = regress(matrix[outside], labels_N[outside], classes, strength=strength)
        cross_NC[inside] = log_softmax(matrix[inside] @ fitted[0] + fitted[1])
    return LexicalModel(tuple(views), weights_FC, bias_C), cross_NC


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
