"""The corpus: what comes out is what went in, split cleanly, found again, and never left half done."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.data import Corpus, DataConfig, TokenStore, open_corpus, prepare_corpus
from steepest.data import corpus as corpus_module
from steepest.data.encoding import cut_pieces, encode_piece, encode_spool
from steepest.data.split import split_documents
from steepest.data.spool import write_spool
from steepest.errors import DataError, StorageError
from steepest.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer

BYTES = TokenizerConfig(kind="bytes")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def some_texts(n: int, seed: int = 0) -> list[str]:
    dice = random.Random(seed)
    return [f"{i}: " + "".join(dice.choices("abc äö€\n", k=dice.randint(0, 60))) for i in range(n)]


def prepare(cache: Path, *sources: Path, tokenizer: TokenizerConfig = BYTES, **settings: object) -> Corpus:
    return prepare_corpus(DataConfig(sources=[str(s) for s in sources], **settings), tokenizer, cache)


def documents(store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    """The documents of a store, checked to be closed by end-of-text."""
    ends = [*store.document_starts[1:], len(store.tokens)]
    texts = []
    for start, end in zip(store.document_starts, ends, strict=True):
        assert store.tokens[end - 1] == tokenizer.end_of_text
        texts.append(tokenizer.decode(store.tokens[start : end - 1].tolist()))
    return texts


def all_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*")) if folder.exists() else []


# ---------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_documents_come_back(tmp_path: Path, cache: Path, kind: str) -> None:
    texts = some_texts(400)
    config = TokenizerConfig(kind=kind, vocab_size=300 if kind == "bpe" else "auto")
    corpus = prepare(cache, write_jsonl(tmp_path / "a.jsonl", texts), tokenizer=config)
    tokenizer = Tokenizer.load(corpus.tokenizer)
    train, validation = documents(corpus.train, tokenizer), documents(corpus.validation, tokenizer)
    assert corpus.summary.split == "hash"
    assert sorted(train + validation) == sorted(texts) and not set(train) & set(validation)
    assert train == [text for text in texts if text in set(train)]  # in the order of the source
    assert corpus.train.n_bytes == sum(len(text.encode()) for text in train)
    assert corpus.validation.n_bytes == sum(len(text.encode()) for text in validation)
    assert corpus.train.tokens.dtype == np.uint16 and corpus.vocab_size == tokenizer.vocab_size
    assert corpus.train.document_starts.dtype == np.int64


def test_raw_files_are_what_the_docs_say(tmp_path: Path, cache: Path) -> None:
    corpus = prepare(cache, write_jsonl(tmp_path / "a.jsonl", ["ab", "c"]), validation=0)
    raw = (corpus.path / "train.bin").read_bytes()
    assert np.frombuffer(raw, "<u2").tolist() == [97, 98, 256, 99, 256]
    assert np.load(corpus.path / "train.starts.npy").tolist() == [0, 3]
    assert corpus.validation.tokens.size == 0 and corpus.summary.split == "none"


def test_the_tokenizer_sees_training_text_only(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(config: TokenizerConfig, texts: Callable[[], list[str]], n_bytes: int) -> Tokenizer:
        seen.extend(texts())
        assert n_bytes == sum(len(text.encode()) for text in seen)
        return make_tokenizer(config, texts, n_bytes)

    monkeypatch.setattr(corpus_module, "make_tokenizer", spy)
    corpus = prepare(cache, write_jsonl(tmp_path / "a.jsonl", some_texts(300)))
    assert seen == documents(corpus.train, Tokenizer.load(corpus.tokenizer))


# ---------------------------------------------------------------------------------- split, duplicates


def test_duplicates_and_empty_documents_are_dropped_and_counted(tmp_path: Path, cache: Path) -> None:
    texts = some_texts(200)
    file = write_jsonl(tmp_path / "a.jsonl", [*texts, "", texts[3], texts[3], "", texts[9]])
    corpus = prepare(cache, file)
    assert (corpus.summary.documents, corpus.summary.duplicates, corpus.summary.empty) == (200, 3, 2)
    assert corpus.summary.n_bytes == sum(len(text.encode()) for text in texts)


def test_the_split_by_hash_depends_on_each_document_alone(tmp_path: Path, cache: Path) -> None:
    texts = some_texts(500)
    whole = prepare(cache, write_jsonl(tmp_path / "a.jsonl", texts), validation=0.2)
    fewer = prepare(cache, write_jsonl(tmp_path / "b.jsonl", texts[::-3]), validation=0.2)
    tokenizer = Tokenizer.load(whole.tokenizer)
    held_out = set(documents(whole.validation, tokenizer))
    assert set(documents(fewer.validation, tokenizer)) == held_out & set(texts[::-3])
    assert 0.1 < len(held_out) / 500 < 0.3


def test_one_long_document_is_split_by_position(tmp_path: Path, cache: Path) -> None:
    text = "".join(some_texts(100))
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(cache, tmp_path / "a.txt", validation=0.1)
    tokenizer = Tokenizer.load(corpus.tokenizer)
    (train,), (validation,) = documents(corpus.train, tokenizer), documents(corpus.validation, tokenizer)
    assert corpus.summary.split == "position" and train + validation == text
    wanted = int(len(text.encode()) * (1 - 0.1))
    assert wanted - 3 <= len(train.encode()) <= wanted


@given(
    texts=st.lists(st.text("aé€😀", min_size=0, max_size=30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_split_by_position_cuts_between_characters(texts: list[str], share: float) -> None:
    text = "".join(texts).encode()
    bounds = np.cumsum([0, *(len(t.encode()) for t in texts)])
    try:
        split = split_documents(text, bounds, np.zeros(len(texts), np.uint64), share, "position")
    except DataError as error:
        assert "too few" in str(error)
        return
    parts = np.concatenate([split.train, split.validation])
    for offset, length in parts.tolist():
        text[offset : offset + length].decode()
    assert parts[:, 1].sum() == len(text)
    covered = np.concatenate([np.arange(offset, offset + length) for offset, length in parts.tolist()])
    assert np.array_equal(np.sort(covered), np.arange(len(text)))


def test_a_forced_split_by_hash_that_holds_nothing_out_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("one document" * 100)
    with pytest.raises(DataError, match=r"leaves nothing to (validate|train) on: 1 documents, 5.0% wanted"):
        prepare(cache, tmp_path / "a.txt", split="hash")


# ------------------------------------------------------------------------------------------- reuse


def test_the_second_run_reuses_and_a_changed_source_rebuilds(tmp_path: Path, cache: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", some_texts(100))
    first = prepare(cache, file)
    before = {path: path.stat().st_mtime_ns for path in all_files(cache)}
    second = prepare(cache, file)
    assert (first.reused, second.reused) == (False, True)
    assert first.fingerprint == second.fingerprint and first.train.fingerprint == second.train.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in all_files(cache)}
    assert np.array_equal(first.train.tokens, second.train.tokens)

    content = file.read_text().replace("0: ", "0; ", 1)
    file.write_text(content)
    os.utime(file, ns=(1, 1))
    third = prepare(cache, file)
    assert not third.reused and third.fingerprint != first.fingerprint


def test_the_same_text_touched_or_elsewhere_has_the_same_order_of_batches(
    tmp_path: Path, cache: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", some_texts(60))
    first = prepare_corpus(DataConfig(sources=[str(path)]), BYTES, cache)
    os.utime(path, (1, 1))
    (tmp_path / "b.jsonl").write_bytes(path.read_bytes())
    for name in ("a.jsonl", "b.jsonl"):
        again = prepare_corpus(DataConfig(sources=[str(tmp_path / name)]), BYTES, cache)
        assert not again.reused and again.train.fingerprint == first.train.fingerprint
    texts = some_texts(60)
    texts[30] = texts[30].replace("a", "b") + "c"
    other = prepare_corpus(DataConfig(sources=[str(write_jsonl(path, texts))]), BYTES, cache)
    prints = [(one.train.fingerprint, one.validation.fingerprint) for one in (first, other)]
    assert prints[0] != prints[1]  # also where the change is in the middle


def test_settings_make_another_corpus(tmp_path: Path, cache: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", some_texts(100))
    prints = {
        prepare(cache, file).fingerprint,
        prepare(cache, file, validation=0.3).fingerprint,
        prepare(cache, file, split="position").fingerprint,
        prepare(cache, file, tokenizer=TokenizerConfig(kind="chars")).fingerprint,
        prepare(cache, file, file).fingerprint,
    }
    assert len(prints) == 5


def test_standard_input_is_recognised_by_its_content(cache: Path) -> None:
    def run(text: str) -> list[str]:
        program = (
            "import sys; from pathlib import Path; from steepest.data import DataConfig, prepare_corpus;"
            "from steepest.tokenizer import TokenizerConfig;"
            "c = prepare_corpus(DataConfig(sources=['-']), TokenizerConfig(kind='bytes'), Path(sys.argv[1]));"
            "print(c.fingerprint, c.reused, c.summary.n_bytes)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(cache)], input=text.encode(), capture_output=True, check=True
        )
        return done.stdout.decode().split()

    first, second, third = run("piped text " * 50), run("piped text " * 50), run("other text " * 50)
    assert first[1:] == ["False", "550"] and second == [first[0], "True", "550"]
    assert third[0] != first[0] and third[1] == "False"


def damage(corpus: Corpus, how: str) -> None:
    if how == "truncated":
        os.truncate(corpus.path / "train.bin", 10)
    elif how == "starts":
        (corpus.path / "train.starts.npy").write_bytes(b"nonsense")
    elif how == "meta":
        (corpus.path / "meta.json").write_text("{}")
    else:
        (corpus.path / how).unlink()


@pytest.mark.parametrize(
    "how", ["truncated", "starts", "meta", "meta.json", "validation.bin", "tokenizer.json"]
)
def test_a_damaged_corpus_is_refused_by_name_and_rebuilt(tmp_path: Path, cache: Path, how: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", some_texts(100))
    first = prepare(cache, file)
    tokens = first.train.tokens.copy()
    damage(first, how)
    with pytest.raises(DataError, match="not a whole prepared corpus"):
        open_corpus(first.path)
    again = prepare(cache, file)
    assert not again.reused and np.array_equal(again.train.tokens, tokens)
    assert [path.name for path in (cache / "corpora").iterdir()] == [first.path.name]


def test_two_processes_do_not_meet(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the same corpus while this one is at it, and reads on from what it has open."""
    file = write_jsonl(tmp_path / "a.jsonl", some_texts(100))
    write, others = corpus_module.write_store, []

    def overtaken(*args: object) -> dict[str, int]:
        monkeypatch.setattr(corpus_module, "write_store", write)
        others.append(prepare(cache, file))
        return write(*args)

    monkeypatch.setattr(corpus_module, "write_store", overtaken)
    corpus = prepare(cache, file)
    assert not corpus.reused and not others[0].reused and prepare(cache, file).reused
    assert np.array_equal(others[0].train.tokens, corpus.train.tokens)
    assert [path.name for path in (cache / "corpora").iterdir()] == [corpus.path.name]


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc\xff", "not valid UTF-8: byte 0xff at position 3"),
        (b"abc\0", "looks like binary data"),
        (b"a", "1 bytes of text are too few to hold out 5.0%"),
    ],
)
def test_bad_input_leaves_nothing_on_the_disk(tmp_path: Path, content: bytes, message: str) -> None:
    cache = tmp_path / "not" / "there" / "yet"
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(cache, tmp_path / "a.txt")
    assert not (tmp_path / "not").exists()


def test_nothing_readable_in_a_directory_says_what_is_there(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG\0")
    (folder / ".b.txt").write_bytes(b"hidden")
    with pytest.raises(DataError, match=r"images: no text in it \(passed over: 1 binary, 1 hidden\)"):
        prepare(cache, folder)
    assert not cache.exists()


def test_a_full_disk_is_one_clear_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    file = write_jsonl(tmp_path / "a.jsonl", some_texts(50))
    monkeypatch.setattr(corpus_module, "write_store", full)
    with pytest.raises(
        StorageError, match=r"No space left on device; [\d,]+ MB are free, text of 0 MB needs"
    ):
        prepare(cache, file)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands here")
    with pytest.raises(StorageError, match=r"cannot write to the cache .* STEEPEST_CACHE"):
        prepare(tmp_path / "cache", write_jsonl(tmp_path / "a.jsonl", some_texts(50)))


# ---------------------------------------------------------------------------------------- encoding


@given(
    text=st.text("ab,.;0 \n\t\r\u3000\u00a0é字😀'", min_size=1, max_size=400)
    | st.text("ACGé.", min_size=100, max_size=800),
    size=st.integers(4, 300),
    kind=st.sampled_from(["bpe", "bytes", "chars"]),
)
@settings(max_examples=300, deadline=None)
def test_pieces_encode_as_the_whole(text: str, size: int, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    data = text.encode()
    parts = np.array([[0, len(data)]])
    ids = np.concatenate(
        [encode_piece(tokenizer, data, task)[1] for task in cut_pieces(data, parts, kind, size)]
    )
    assert ids.tolist() == [*tokenizer.encode(text).tolist(), tokenizer.end_of_text]


TRAINING = "\n".join(some_texts(300) + ["a. b, 00 abab ,;\n\n\n  ab\r\n\r\nab's 字字 é😀"] * 50)
TOKENIZERS = {
    kind: make_tokenizer(
        TokenizerConfig(kind=kind, vocab_size=size), lambda: [TRAINING], len(TRAINING.encode())
    )
    for kind, size in (("bpe", 400), ("bytes", "auto"), ("chars", "auto"))
}


def test_a_foreign_tokenizer_gets_whole_documents() -> None:
    data = b"line of text\n" * 100
    (task,) = cut_pieces(data, np.array([[0, len(data)]]), "/some/tokenizer.json", 50)
    assert task.tolist() == [[0, len(data), 1]]


def test_worker_processes_encode_the_same(tmp_path: Path) -> None:
    texts = ["".join(some_texts(3000, seed)) for seed in range(10)] + some_texts(2000)
    spool = write_spool([(text.encode(),) for text in texts], tmp_path / "spool")
    parts = np.stack([spool.bounds[:-1], np.diff(spool.bounds)], axis=1)
    tokenizer = TOKENIZERS["bpe"]
    tokenizer.save(tmp_path / "tokenizer.json")

    def encode(workers: int) -> tuple[list[int], list[int]]:
        results = list(encode_spool(spool.path, parts, tokenizer, tmp_path / "tokenizer.json", workers))
        counts = np.concatenate([counts for _, (counts, _) in results]).tolist()
        return counts, np.concatenate([ids for _, (_, ids) in results]).tolist()

    assert encode(1) == encode(2)


def test_workers_need_no_main_guard(tmp_path: Path, cache: Path) -> None:
    """A plain script without ``if __name__ == "__main__"`` may use several processes."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from steepest.data import DataConfig, prepare_corpus\n"
        "from steepest.tokenizer import TokenizerConfig\n"
        f"data = DataConfig(sources=[{str(write_jsonl(tmp_path / 'a.jsonl', some_texts(500)))!r}])\n"
        f"corpus = prepare_corpus(data, TokenizerConfig(kind='bytes'), Path({str(cache)!r}), workers=2)\n"
        "print(corpus.summary.documents)\n"
    )
    for command in ([str(script)], ["-c", script.read_text().replace("workers=2", "workers=3")]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("500\n", "")


def test_a_worker_that_dies_is_one_clear_line(tmp_path: Path) -> None:
    spool = write_spool([(b"some text",)], tmp_path / "spool")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"an encoding worker stopped early \(status \d+\)"):
        list(
            encode_spool(spool.path, np.array([[0, 9]]), TOKENIZERS["bytes"], tmp_path / "tokenizer.json", 2)
        )


def test_progress_ends_at_the_end(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\n" * 300_000)
    told: dict[str, list[tuple[int, int]]] = {}
    prepare_corpus(
        DataConfig(sources=[str(tmp_path / "a.txt")]),
        BYTES,
        cache,
        lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )
    assert told["encoding"][-1] == (3_000_000, 3_000_000)
    assert told["reading"][-1][1] == 3_000_000
    assert all([done for done, _ in each] == sorted(done for done, _ in each) for each in told.values())
