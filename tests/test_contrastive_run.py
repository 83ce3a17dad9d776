"""Runs of contrastive learning: whole, resumed bit for bit, used from Python and from the command line."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import steepest
from steepest.errors import ConfigError, DataError, SteepestError
from steepest.report import write_report

SYLLABLES = ["ba", "ke", "li", "mo", "nu", "pra", "sto", "vi", "ze", "du", "fa", "gri"]


def translated(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences and their word-by-word translation into words that share no letters with them."""
    dice = random.Random(seed)
    words = ["".join(dice.choices(SYLLABLES, k=2)) for _ in range(60)]
    foreign = dict(zip(words, (f"{number:03d}"[::-1] for number in range(60)), strict=True))
    rows = [dice.sample(words, dice.randint(4, 7)) for _ in range(n)]
    return [(" ".join(row), " ".join(foreign[word] for word in row)) for row in rows]


def write_rows(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "train.tsv", list(translated(420)))


def train(
    path: Path, runs: Path, *, steps: int = 60, objective: dict[str, Any] | None = None, **more: Any
) -> Any:
    config = {
        "objective": {"kind": "contrastive", **(objective or {})},
        "model": {"width": 64, "depth": 0, "context": 32},
        "batches": {"batch_tokens": 2 * 64 * 32},
        **more,
    }
    return steepest.train(path, steps=steps, runs=runs, config=config)


def test_learns_what_no_lexical_score_can_know(pairs: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.tsv", list(translated(480)[-60:]))
    objective = {"metric": "recall@1", "test": str(test)}
    run = train(pairs, tmp_path, steps=150, objective=objective, optim={"lr": 3e-2}, health={"every": 5})
    result = json.loads(run.folder.result.read_text())
    assert run.metrics["recall@1"] > 0.8
    ours, bm25 = (result["judged"]["test"][name] for name in ("steepest", "BM25"))
    low, high = ours["interval"]
    assert ours["recall@1"] > 0.8 and low <= ours["recall@1"] <= high and result["winner"] == "steepest"
    assert bm25["recall@1"] < 0.2 and bm25["seconds"] >= 0
    for name in ("alignment", "uniformity", "effective_rank", "mean_cosine", "loss", "dense_recall@1"):
        assert name in run.metrics
    page = write_report(run.folder).read_text()
    assert (
        "Beside simpler methods" in page and f"{ours['recall@1']:.4g}" in page and "The winner is" not in page
    )
    proxy = {
        "lowest_loss_step": 9,
        "best_step": 12,
        "metric_at_lowest_loss": 0.5,
        "metric_at_best": 0.75,
        "differ": True,
    }
    result |= {"winner": "BM25", "proxy": proxy, "warnings": ["the embeddings have collapsed"]}
    run.folder.result.write_text(json.dumps(result))
    page = write_report(run.folder).read_text()
    assert (
        "The winner is BM25" in page
        and "lowest at step 9, where recall@1 was 0.5" in page
        and "collapsed" in page
    )


def test_resume_is_bit_for_bit(pairs: Path, tmp_path: Path) -> None:
    whole = train(
        pairs, tmp_path / "whole", steps=12, train={"steps": 12, "evaluations": 3, "checkpoint_every": 6}
    )
    config = {"steps": 12, "evaluations": 3, "checkpoint_every": 6}
    train(pairs, tmp_path / "cut", steps=12, train=config)
    folder = steepest.rewind("run-001", to=6, go_on=False, runs=tmp_path / "cut")
    resumed = steepest.resume(folder.path)
    ours, theirs = whole.objective.state_dict(), resumed.objective.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.metrics == resumed.metrics


def test_a_budget_in_time_is_planned_by_the_own_step_and_cut_where_epochs_are_enough(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.train.kinds import ContrastiveKind

    monkeypatch.setattr(ContrastiveKind, "most_epochs", 2)
    config = {
        "objective": {"kind": "contrastive"},
        "model": {"width": 32, "context": 32},
        "train": {"threads": 1},
    }
    told: list[Any] = []
    run = steepest.train(
        pairs, time="60s", runs=tmp_path, config=config, listen=lambda *event: told.append(event)
    )
    assert run.result.finished and run.config.model.depth == 0 and run.config.train.time < 60
    assert any(fields.get("event") == "less time is enough" for name, fields in told if name == "event")
    plan = json.loads(run.folder.plan.read_text())
    assert plan["step_seconds_by_threads"] and plan["memory"]["predicted"] > 0


def test_changed_data_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.tsv", list(translated(200)))
    train(path, tmp_path, steps=4, train={"steps": 4, "checkpoint_every": 2})
    steepest.rewind("run-001", to=2, go_on=False, runs=tmp_path)
    write_rows(path, list(translated(220, seed=1)))
    with pytest.raises(DataError, match="fingerprint"):
        steepest.resume("run-001", runs=tmp_path)


def test_layers_on_top_of_the_bag(pairs: Path, tmp_path: Path) -> None:
    model = {"width": 32, "depth": 2, "context": 32}
    run = train(pairs, tmp_path, steps=3, model=model, train={"steps": 3, "micro_batch": 8})
    assert np.isfinite(run.metrics["loss"]) and run.embed(["ba ke"]).shape == (1, 32)


def test_classes_scores_and_negatives(tmp_path: Path) -> None:
    dice = random.Random(0)
    topics = {f"class{c}": [f"{s}{c}" for s in SYLLABLES[:6]] for c in range(24)}
    classes = [
        (name, " ".join(dice.choices(words, k=4))) for name, words in topics.items() for _ in range(10)
    ]
    path = write_rows(tmp_path / "classes.tsv", classes)
    run = train(path, tmp_path, steps=20, batches={"batch_tokens": 48 * 32})
    assert run.objective.metric == "map@r" and 0 < run.metrics["map@r"] <= 1

    rows = translated(120)
    others = [rows[(at + 7) % len(rows)][1] for at in range(len(rows))]
    triples = [(*row, other) for row, other in zip(rows, others, strict=True)]
    path = write_rows(tmp_path / "triples.tsv", triples)
    run = train(path, tmp_path, steps=5, batches={"batch_tokens": 3 * 16 * 32})
    assert run.kind.width == 3 and "recall@10" in run.metrics

    scored = [(round(dice.random() * 5, 2), a, b) for a, b in rows]
    path = write_rows(tmp_path / "scores.tsv", scored)
    run = train(path, tmp_path, steps=5, batches={"batch_tokens": 2 * 32 * 32})
    assert run.objective.metric == "spearman" and -1 <= run.metrics["spearman"] <= 1
    with torch.no_grad():
        run.objective.fusion_V.fill_(0.5)  # of cosines of words, which is no weight for BM25
    hits = run.search([rows[0][0]], [right for _, right in rows[:20]], k=20)[0]
    assert [hit.score for hit in hits] == pytest.approx([hit.cosine for hit in hits])


@pytest.mark.parametrize("loss", ["siglip", "triplet", f"{__name__}:MeanSquare"])
def test_other_losses(pairs: Path, tmp_path: Path, loss: str) -> None:
    run = train(pairs, tmp_path, steps=3, objective={"loss": loss, "dims": [64, 16]})
    assert np.isfinite(run.metrics["loss"])
    assert run.embed(["ba"], dims=16).shape == (1, 16)


class MeanSquare(torch.nn.Module):
    """The protocol of pytorch-metric-learning's losses: embeddings and labels in, one number out."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        same = labels[:, None] == labels[None]
        return ((embeddings @ embeddings.T - same.float()) ** 2).mean()


def test_embed_and_search(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from steepest.cli import main

    run = train(pairs, tmp_path, steps=60, objective={"metric": "recall@1"}, optim={"lr": 3e-2})
    rows = translated(420)
    vectors = run.embed([left for left, _ in rows[:20]])
    assert vectors.dtype == np.float32 and vectors.shape == (20, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(run.embed([rows[3][0]])[0], vectors[3], atol=1e-5)  # whatever the company
    hits = run.search([rows[0][0]], [right for _, right in rows[:50]], k=3)[0]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].text == rows[0][1]

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(right + "\n" for _, right in rows[:50]))

    def command(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["steepest", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
        return str(capsys.readouterr().out)

    command("embed", str(run.folder.path), str(corpus), "--out", str(tmp_path / "z.npy"), "--dims", "8")
    assert np.load(tmp_path / "z.npy").shape == (50, 8)
    command("embed", str(run.folder.path), str(corpus), "--out", str(tmp_path / "z.jsonl"))
    line = json.loads((tmp_path / "z.jsonl").read_text().splitlines()[0])
    assert line["text"] == rows[0][1] and len(line["embedding"]) == 64
    said = command("search", str(run.folder.path), "--in", str(corpus), rows[0][0], "-k", "2", "--json")
    assert json.loads(said)["hits"][0]["text"] == rows[0][1]


@pytest.mark.parametrize(
    ("rows", "objective", "said"),
    [
        ([("a", "b"), ("a", "b")], {}, "all 2 rows are the same"),
        ([("a", ""), ("", "b")], {}, "every row has an empty text"),
        ([("x", f"text {i}") for i in range(50)], {"form": "classes"}, "only one class"),
        ([(f"c{i}", f"text {i}") for i in range(50)], {"form": "classes"}, "one text only"),
        ([("high", "a b", "c d")] * 3, {"form": "scores"}, "should hold a score, a number"),
        ([("a", "b")], {"columns": ["1", "3"]}, 'no column "3"'),
        ([("a", "b"), ("c", "d")], {"metric": "spearman", "form": "pairs"}, "does not suit pairs"),
        ([("a", "b"), ("c", "d")], {"metric": "recal@1"}, 'did you mean "recall@1"'),
        ([("a", "b"), ("c", "d")], {"loss": "cosent", "form": "pairs"}, "is for scores"),
        ([("a", "b"), ("c", "d")], {"loss": "infonc"}, 'did you mean "infonce"'),
        (list(translated(60)), {"loss": "nowhere:Loss"}, "cannot be loaded"),
        (list(translated(60)), {"dims": [999]}, "dims must lie between"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path: Path, rows: list[tuple[Any, ...]], objective: dict[str, Any], said: str
) -> None:
    path = write_rows(tmp_path / "bad.tsv", rows)
    with pytest.raises(SteepestError, match=said) as error:
        train(path, tmp_path / "runs", steps=2, objective=objective, batches={})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_batch_of_more_than_the_distinct_texts_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "few.tsv", list(translated(40)))
    with pytest.raises(DataError, match="needs as many distinct texts"):
        train(path, tmp_path, batches={"batch_tokens": 2 * 500 * 32})


def test_other_objectives_give_no_embeddings(text_file: Path, tmp_path: Path) -> None:
    run = steepest.train(
        text_file, steps=1, runs=tmp_path, config={"model": {"depth": 1, "width": 32, "context": 16}}
    )
    with pytest.raises(ConfigError, match="embed needs contrastive"):
        run.embed(["a"])
