"""The lexical model: scikit-learn's regression kept exactly, cross-fitted without a look at the text itself."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from labelled_texts import lexical_rows
from steepest.errors import CheckpointError, DataError
from steepest.lexical import LexicalModel, choose_effort, cross_fit, fit_baselines, fit_lexical, make_bag
from steepest.lexical.features import character_positions, suitable_views
from steepest.lexical.model import log_softmax

ROWS = lexical_rows(120)
TEXTS = [text for _, text in ROWS]
NAMES = sorted({label for label, _ in ROWS})
LABELS = np.array([NAMES.index(label) for label, _ in ROWS])


@pytest.mark.parametrize("classes", [2, 3])
def test_baselines_and_margins_are_those_of_scikit_learn(classes: int) -> None:
    keep = classes > LABELS
    texts, labels = [text for text, kept in zip(TEXTS, keep, strict=True) if kept], LABELS[keep]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    matrix = vectorizer.fit_transform(texts)
    new = ["the red cat", "a dog and an owl", "nothing known"]
    regression = LogisticRegression(C=10, tol=1e-8, max_iter=2000).fit(matrix, labels)
    bag = make_bag(["words"], texts)
    model, _ = fit_baselines(bag, labels, classes)["TF-IDF of words + logistic regression"]
    wanted = regression.predict_proba(vectorizer.transform(new))
    assert np.abs(np.exp(model.log_probabilities(new)) - wanted).max() < 2e-3
    machine = LinearSVC(C=0.5, tol=1e-6, random_state=1).fit(matrix, labels)
    margins = machine.decision_function(vectorizer.transform(new))
    if classes == 2:
        margins = np.stack([-margins / 2, margins / 2], axis=1)
    found = fit_lexical(bag, labels, classes, strength=0.5, scale=3.0).log_probabilities(new)
    assert np.abs(found - log_softmax(3 * margins)).max() < 1e-2


def test_it_is_kept_without_pickle(tmp_path: Path) -> None:
    model = fit_lexical(make_bag(["words", "characters", "beginnings"], TEXTS), LABELS, 3)
    model.save(tmp_path)
    new = [*TEXTS[:5], "", "Ünknown"]
    assert np.array_equal(LexicalModel.load(tmp_path).log_probabilities(new), model.log_probabilities(new))
    (tmp_path / "lexical.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LexicalModel.load(tmp_path)


def test_cross_fitting_never_saw_the_text() -> None:
    texts = [f"word{number}" for number in range(200)]  # each tells its own label, and nothing about others
    labels = np.random.default_rng(0).integers(0, 2, 200)
    bag = make_bag(["words"], texts)
    fitted = fit_lexical(bag, labels, 2).log_probabilities(texts)
    crossed = cross_fit(bag, texts, labels, 2).log_probabilities_NC
    assert (fitted.argmax(1) == labels).mean() > 0.95
    assert (crossed.argmax(1) == labels).mean() < 0.65
    assert crossed.max() < np.log(0.8)


def test_a_class_without_a_text_is_all_but_impossible() -> None:
    model = fit_lexical(make_bag(["words"], TEXTS), LABELS, 4)
    assert (model.log_probabilities(TEXTS).argmin(1) == 3).all()
    one = fit_lexical(make_bag(["words"], TEXTS), np.zeros_like(LABELS), 2)
    assert np.exp(one.log_probabilities(["red"]))[0, 0] > 0.8


def test_positions_see_sites_that_bags_do_not() -> None:
    dice = np.random.default_rng(1)
    texts = ["".join(dice.choice(list("ACGT"), 20)) for _ in range(600)]
    labels = np.array([int(text[9] in "AC") for text in texts])
    assert suitable_views(texts) == ["strings", "positions"]
    bag = make_bag(["strings", "positions"], texts[:400])
    model = fit_lexical(bag, labels[:400], 2)
    baseline, _ = next(iter(fit_baselines(bag, labels[:400], 2).values()))
    right = [(m.log_probabilities(texts[400:]).argmax(1) == labels[400:]).mean() for m in (model, baseline)]
    assert right[0] > 0.95 > 0.8 > right[1]
    assert list(character_positions("AC")) == ["0 A", "1 C", "0 AC"]


def test_more_rows_below_are_seen_by_the_same_terms() -> None:
    bag = make_bag(["words", "beginnings"], TEXTS[:100])
    longer = bag.extend(TEXTS[100:])
    below = scipy.sparse.hstack([view.transform(TEXTS[100:]) for view in bag.views])
    assert longer.matrix.shape[0] == 120
    assert abs(longer.matrix[100:] - below.tocsr()).max() == 0


def test_little_time_means_fewer_views_then_fewer_texts() -> None:
    texts, labels = TEXTS * 40, np.tile(LABELS, 40)
    whole = choose_effort(texts, labels, 3, seconds=1e9)
    assert whole.baselines and whole.folds == 5 and 0 < whole.seconds < 1e9
    least = choose_effort(texts, labels, 3, seconds=1e-3)
    assert least.views == ("words", "beginnings") and not least.baselines and least.folds == 2
    assert 6 <= len(least.rows) < len(texts) and len(set(least.rows.tolist())) == len(least.rows)
    assert choose_effort(texts, labels, 3).seconds == 0


def test_texts_without_a_term_are_refused() -> None:
    with pytest.raises(DataError, match="nothing to tell them apart"):
        make_bag(["words"], ["...", "!!"])


def test_log_softmax_does_not_overflow() -> None:
    assert np.allclose(log_softmax(np.array([[1e4, 0.0]])), [[0.0, -1e4]])
