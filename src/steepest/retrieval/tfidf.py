"""Character TF-IDF: n-grams of three to five characters inside words, by scikit-learn (an extra)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steepest.errors import ConfigError


def character_tfidf_scores(
    queries: Sequence[str], documents: Sequence[str], fitted_on: Sequence[str] | None = None
) -> npt.NDArray[np.float32]:
    """Cosine of sublinear TF-IDF vectors, float32 (N, M); the IDF is that of ``fitted_on``, or the documents.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise ConfigError(
            'the character TF-IDF baseline needs scikit-learn: pip install "steepest[baselines]"'
        ) from None
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    vectorizer.fit(documents if fitted_on is None else fitted_on)
    scores: npt.NDArray[np.float32] = (
        vectorizer.transform(queries) @ vectorizer.transform(documents).T
    ).toarray()
    return scores
