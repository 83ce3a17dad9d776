"""Retrieval: ranks, BM25, TF-IDF, fusion and collapse figures against slow and independent truths."""

import math

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score

from steepest.data.pairs import PairTable
from steepest.retrieval.baselines import lexical_baselines
from steepest.retrieval.bm25 import BM25
from steepest.retrieval.collapse import alignment, collapse_warnings, spread
from steepest.retrieval.fusion import fit_ranking, fit_scores, fuse
from steepest.retrieval.ranks import map_at_r_in, rank_values, ranks_in
from steepest.retrieval.search import Corpus
from steepest.retrieval.terms import CUTS, characters, words
from steepest.retrieval.tfidf import character_tfidf, paired_cosines
from steepest.retrieval.truth import VIEWS, Truth

TEXTS = [
    "The cat sat on the mat",
    "A dog ran",
    "Riga is a city in Latvia",
    "the cats of Riga ran",
    "nothing alike",
]
DENSE = torch.eye(1 + len(VIEWS), dtype=torch.float64)[0]


def brute_rank(scores: list[float], right: list[bool]) -> int:
    if not any(right):
        return len(scores) + 1
    best = max(s for s, r in zip(scores, right, strict=True) if r)
    return 1 + sum(s >= best and not r for s, r in zip(scores, right, strict=True))


def test_ranks_count_ties_against_the_model() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (60, 12), generator=generator).float()  # many ties
    right = torch.rand(60, 12, generator=generator) < 0.2
    expected = [brute_rank(s, r) for s, r in zip(scores.tolist(), right.tolist(), strict=True)]
    assert ranks_in(scores, right).tolist() == expected
    collapsed = torch.ones(4, 4)
    assert rank_values(ranks_in(collapsed, torch.eye(4, dtype=torch.bool)), "recall@1").sum() == 0


def test_map_at_r_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(30, 15, generator=generator)
    right = torch.rand(30, 15, generator=generator) < 0.3
    right[:, 0] = True
    for row, found in enumerate(map_at_r_in(scores, right).tolist()):
        order = scores[row].argsort(descending=True)
        hits = right[row][order][: int(right[row].sum())].double()
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        assert found == pytest.approx(float((precision * hits).sum() / len(hits)), abs=1e-12)
    # Where R is the number of candidates it is scikit-learn's average precision.
    everything = torch.ones(1, 15, dtype=torch.bool)
    assert float(map_at_r_in(scores[:1], everything)[0]) == average_precision_score(everything[0], scores[0])


def test_bm25_is_its_formula() -> None:
    queries = ["the cats ran", "city of dogs", "unknown"]
    found = BM25(TEXTS, k=1.5, b=0.75).scores(queries)
    documents = [words(text) for text in TEXTS]
    mean = sum(map(len, documents)) / len(documents)
    for q, query in enumerate(queries):
        for d, document in enumerate(documents):
            total = 0.0
            for term in words(query):
                holders = sum(term in other for other in documents)
                idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
                f = document.count(term)
                total += idf * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(document) / mean))
            assert found[q, d] == pytest.approx(total, abs=1e-5)


def test_tfidf_cosines_are_scikit_learns() -> None:
    left, right = TEXTS[:3], TEXTS[1:4]
    vectorizer = TfidfVectorizer(analyzer=characters, sublinear_tf=True).fit(TEXTS)
    # Terms that the background lacks count here as well; there are none.
    expected = (vectorizer.transform(left).multiply(vectorizer.transform(right))).sum(axis=1)
    found = paired_cosines(left, right, cut=characters, background=TEXTS)
    np.testing.assert_allclose(found, np.asarray(expected).ravel(), atol=1e-5)
    queries, documents = character_tfidf(left, TEXTS)
    assert (queries @ documents.T).toarray().argmax(1).tolist() == [0, 1, 2]


def test_fused_weights_are_the_likeliest_and_never_worse_than_a_single_score() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.eye(80, dtype=torch.bool)
    signal = [right.float() * weight + torch.randn(80, 80, generator=generator) for weight in (2.0, 1.0)]
    scores = [*signal, torch.randn(80, 80, generator=generator), torch.zeros(80, 80)]

    def quality(fused: torch.Tensor) -> float:
        return float(rank_values(ranks_in(fused, right), "mrr").mean())

    weights = fit_ranking(scores, right, quality)
    assert weights[0] > weights[1] > 3 * weights[2] >= 0 and weights[3] == 0  # a constant score gets none
    assert quality(fuse(scores, weights)) >= max(quality(score) for score in scores)

    def cost(some: torch.Tensor) -> float:
        return float(-fuse(signal, some).log_softmax(1).diagonal().mean())

    both = fit_ranking(signal, right, quality)
    assert all(
        cost(both) <= cost(both * torch.tensor(change)) + 1e-3 for change in ([1.2, 1], [0.8, 1], [1, 1.2])
    )


def test_scores_are_fitted_by_non_negative_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, generator=generator), torch.rand(50, generator=generator)
    weights = fit_scores([a, b], 3 * a - 2 * b + 1)
    assert weights[0] > 2 and weights[1] == 0
    assert fit_scores([a, b], torch.ones(50)).tolist() == [1.0, 0.0]


def pairs(rows: list[tuple[str, ...]]) -> PairTable:
    return PairTable("t", "pairs", (), rows, [], np.zeros(0))


def test_truth_knows_every_right_answer_of_an_anchor() -> None:
    truth = Truth(pairs([("a", "x", "n1"), ("a", "y", "n2"), ("b", "X", "n1"), ("c", "z", "")]))
    assert truth.documents == ["x", "n1", "y", "n2", "z"]  # "X" is "x", an empty negative is none
    z = torch.zeros(12, 5)
    z[torch.from_numpy(truth.places)] = torch.eye(5)
    z[0] = torch.tensor([0.1, 0.9, 0.5, 0.0, 0.0])  # a: n1 before y before x
    z[3] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])  # a: x is as right as y
    z[6] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])  # b: x ties with n1
    z[9] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    assert truth.judge(z, DENSE).ranks_N.tolist() == [2, 1, 2, 1]


def test_a_text_does_not_find_itself_and_one_alone_in_its_class_is_no_query() -> None:
    table = PairTable("t", "classes", (), [("a",), ("b",), ("c",), ("d",)], ["1", "1", "2", "3"], np.zeros(0))
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    judged = Truth(table).judge(z, DENSE)
    assert judged.ranks_N.tolist() == [1, 1] and judged.map_N.tolist() == [1.0, 1.0]


def test_a_collapsed_encoder_scores_nothing() -> None:
    truth = Truth(pairs([(f"q{at}", f"d{at}") for at in range(9)]))
    z = torch.ones(18, 4) / 2
    assert rank_values(truth.judge(z, DENSE).ranks_N, "recall@1").sum() == 0
    figures = spread(z)
    assert figures["mean_cosine"] == pytest.approx(1) and figures["effective_rank"] == pytest.approx(1)
    assert "collapsed" in collapse_warnings(figures, 4)[0]
    few = {"mean_cosine": 0.1, "uniformity": -2.0, "effective_rank": 9.0}
    assert "9 of 512 directions" in collapse_warnings(few, 512, 2000)[0]
    assert collapse_warnings(few, 512, 40) == collapse_warnings({**few, "effective_rank": 1.5}, 512, 10) == []
    spread_out = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    assert collapse_warnings(spread(torch.nn.functional.normalize(spread_out, dim=1)), 32) == []
    assert alignment(z[:3], -z[:3]) == pytest.approx(4)


def test_baselines_find_what_is_spelled_alike() -> None:
    rows = [(f"number {at} of many", f"here is number {at} again") for at in range(20)]
    for one in lexical_baselines(Truth(pairs(rows))):
        assert one.judged.ranks_N.tolist() == [1] * 20 and one.seconds >= 0
    table = PairTable(
        "t", "scores", (), [("a b", "a b"), ("a b", "a c"), ("a b", "d")], [], np.array([3.0, 2.0, 1.0])
    )
    for one in lexical_baselines(Truth(table)):
        assert one.judged.fused_N.argsort(descending=True).tolist() == [0, 1, 2]


def test_search_sorts_by_the_fused_score() -> None:
    weights = torch.zeros(1 + len(VIEWS))
    weights[0], weights[1] = 1.0, 0.5
    corpus = Corpus(TEXTS, torch.eye(5), weights)
    hits = corpus.search("Latvia", torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0]), k=5)
    assert hits[0].place == 2 and hits[1].place == 1 and hits[1].cosine == pytest.approx(0.3)
    assert set(CUTS) == set(VIEWS)
