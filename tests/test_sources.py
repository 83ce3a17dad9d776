"""Sources: every format gives the same documents; whatever is not text is refused by name and place."""

import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from steepest.data.formats import BLOCK
from steepest.data.hub import HubName
from steepest.data.sources import DataConfig, default_cache, find_sources, read_documents
from steepest.errors import DataError

TEXTS = ["first text\nof two lines", "Zweiter Text: äöü €", "第三", 'with, comma and "quotes"']


def read(*sources: object, cache: Path | None = None, **settings: object) -> list[str]:
    return list(read_documents(DataConfig(sources=[str(s) for s in sources], **settings), cache))


def jsonl(column: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(TEXTS)).encode()


def csv_bytes(column: str = "text") -> bytes:
    quoted = (text.replace('"', '""') for text in TEXTS)
    return (
        f"id,{column}\r\n".encode() + "".join(f'{i},"{text}"\r\n' for i, text in enumerate(quoted)).encode()
    )


def parquet_bytes(column: str = "text") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(TEXTS)), column: TEXTS}), buffer)
    return buffer.getvalue()


def zst(data: bytes) -> bytes:
    """Two frames, as tools that append write them."""
    middle = len(data) // 2
    return zstandard.compress(data[:middle]) + zstandard.compress(data[middle:])


# ------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", jsonl()),
        ("rows.ndjson", jsonl()),
        ("rows.jsonl.gz", gzip.compress(jsonl())),
        ("rows.jsonl.zst", zst(jsonl())),
        ("rows.csv", csv_bytes()),
        ("rows.csv.gz", gzip.compress(csv_bytes())),
        ("rows.CSV", b"\xef\xbb\xbf" + csv_bytes()),
        ("rows.parquet", parquet_bytes()),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXTS


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.txt", bytes), ("a", bytes), ("a.py", bytes), ("a.md.gz", gzip.compress), ("a.zst", zst)],
)
def test_a_plain_file_is_one_document_byte_for_byte(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    text = "one\r\n\r\ntwo\ttabs \u2028 and \x0b\n" * 3
    (tmp_path / name).write_bytes(pack(text.encode()))
    assert read(tmp_path / name) == [text]


def test_blocks_may_cut_characters_and_lines(tmp_path: Path) -> None:
    texts = ["x" + "€" * BLOCK, "y" * (BLOCK - 20) + "é" * 30, "short"]
    (tmp_path / "a.txt").write_text(texts[0])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts))
    (tmp_path / "c.csv").write_text("text\n" + "\n".join(texts))
    assert read(tmp_path / "a.txt") == texts[:1]
    assert read(tmp_path / "b.jsonl") == read(tmp_path / "c.csv") == texts


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path / "a.txt") == ["hello"]


def test_json_lines_may_be_bare_strings_or_blank(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n\n{"text": "two"}\n{"text": null}\n')
    assert read(tmp_path / "a.jsonl") == ["one", "two", ""]


# ------------------------------------------------------------------------------- directories and globs


def make_tree(root: Path) -> None:
    for name, content in {
        "b.txt": b"b",
        "a/one.py": b"one",
        "a/two.unknown": b"two",
        "a/deep/er/three.md": b"three",
        "rows.jsonl": b'{"text": "row"}\n',
        "image.png": b"\x89PNG\r\n\x1a\n\0\0\0",
        "latin.txt": b"caf\xe9",
        "empty.txt": b"",
        "other.csv": b"name,value\nx,1\n",
        ".git/config": b"hidden",
        ".hidden": b"hidden",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_a_directory_is_read_in_order_and_says_what_it_passed_over(tmp_path: Path) -> None:
    from steepest.data.sources import iterate_documents

    make_tree(tmp_path)
    sources, skipped = find_sources(DataConfig(sources=[str(tmp_path)]), tmp_path)
    texts = [b"".join(document) for document in iterate_documents(sources, "text", skipped)]
    assert texts == [b"three", b"one", b"two", b"b", b"row"]
    assert skipped == {"hidden": 2, "binary": 1, "not UTF-8": 1, 'without column "text"': 1}


def test_what_was_trained_in_a_folder_is_not_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    run = tmp_path / "runs" / "run-001"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.toml").write_text("format = 1")
    (run / "plan.json").write_text("{}")
    assert read(tmp_path) == ["words"]


def test_globs_are_recursive_and_sorted(tmp_path: Path) -> None:
    make_tree(tmp_path)
    assert read(f"{tmp_path}/a/*.py") == ["one"]
    assert read(f"{tmp_path}/**/*.[mp][dy]") == ["three", "one"]
    assert read(f"{tmp_path}/[a]") == ["three", "one", "two"]
    (tmp_path / "odd[1].txt").write_text("literal")
    assert read(f"{tmp_path}/odd[1].txt") == ["literal"]


def test_several_sources_keep_their_order(tmp_path: Path) -> None:
    make_tree(tmp_path)
    assert read(tmp_path / "b.txt", tmp_path / "a/one.py") == ["b", "one"]


def test_python_itself_has_text() -> None:
    docs = read("python-docs")
    assert sum(map(len, docs)) > 300_000 and docs == read("python-docs")
    found, _ = find_sources(DataConfig(sources=["python-stdlib"]), Path())
    names = [source.path.name for source in found]
    assert "argparse.py" in names and not any("site-packages" in source.path.parts for source in found)
    assert sum(source.size for source in found) > 5_000_000


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("piped € text".encode())))
    assert read("-") == ["piped € text"]
    with pytest.raises(DataError, match="only once"):
        read("-", "-")


def test_a_named_pipe_is_a_stream(tmp_path: Path) -> None:
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("through a pipe"))
    writer.start()
    assert read(pipe) == ["through a pipe"]
    writer.join()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEEPEST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache() == Path("/xdg/steepest")
    monkeypatch.setenv("STEEPEST_CACHE", "/mine")
    assert default_cache() == Path("/mine")


# ----------------------------------------------------------------------------------------------- hub


def test_hub_names() -> None:
    assert HubName.parse("hf:a/b") == HubName("a/b")
    assert HubName.parse("hf:a/b::test") == HubName("a/b", None, "test")
    for wrong in ("hf:", "hf:a:b:c:d"):
        with pytest.raises(DataError, match="expected hf:NAME"):
            HubName.parse(wrong)


@pytest.fixture
def local_hub(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(jsonl())
    (folder / "test.jsonl").write_text('{"id": 0, "text": "held out"}\n')
    return folder


def test_a_hub_data_set_is_read_through_datasets(
    local_hub: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert read(f"hf:{local_hub}", cache=cache) == TEXTS
    assert read(f"hf:{local_hub}::test", cache=cache) == ["held out"]
    assert capfd.readouterr() == ("", "")  # no progress bars, no notes
    with pytest.raises(DataError, match='no column "txt"; did you mean "text"'):
        read(f"hf:{local_hub}", cache=cache, text_column="txt")
    with pytest.raises(DataError, match=r'column "id" holds int, not text'):
        read(f"hf:{local_hub}", cache=cache, text_column="id")
    with pytest.raises(DataError, match=r"datasets cannot read it: .*nosplit"):
        read(f"hf:{local_hub}::nosplit", cache=cache)


def test_a_data_set_of_several_splits_without_train_asks(tmp_path: Path) -> None:
    for split in ("test", "validation"):
        (tmp_path / f"{split}.jsonl").write_bytes(jsonl())
    with pytest.raises(DataError, match=r"has the splits .* choose one: hf:.*::"):
        read(f"hf:{tmp_path}", cache=tmp_path / "cache")


def test_without_a_network_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    from steepest.data.hub import remember_revision, revision_of

    def unreachable(*args: object, **settings: object) -> None:
        raise ConnectionError("Name or service not known\nand more lines")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(
        DataError, match=r"hf:a/b: the Hugging Face hub cannot be reached \(Name or .* known\)"
    ):
        read("hf:a/b", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    remember_revision(HubName("a/b"), "abc123", tmp_path)
    assert revision_of(HubName("a/b"), tmp_path) == "abc123"


# -------------------------------------------------------------------------------------------- errors


def refused(*sources: object, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources, **settings)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_a_missing_path_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus.txt").write_text("x")
    (tmp_path / "data").mkdir()
    assert 'no such file or directory; did you mean "corpus.txt"?' in refused(tmp_path / "corpus.tx")
    assert '(there is no "' in refused(tmp_path / "date/corpus.txt")
    assert 'did you mean "data"?' in refused(tmp_path / "date/corpus.txt")
    assert "no readable file matches" in refused(f"{tmp_path}/*.rst")
    monkeypatch.chdir(tmp_path)
    assert 'did you mean "python-docs"?' in refused("python-doc")
    assert "no such file" in refused("corpus.txt/inside")


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"PAR1\x15\0", "a Parquet file"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        ("ﬁve".encode("utf-16"), "UTF-16 text"),
        (b"some text\nand \0 then", "zero byte at position 14"),
        (b"a" * BLOCK + b"b\0", f"zero byte at position {BLOCK + 1}"),
    ],
)
def test_binary_input_says_what_it_looks_like(tmp_path: Path, content: bytes, looks: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert looks in refused(tmp_path / "a.txt")


def test_text_that_begins_like_an_archive_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("BZh is how a bzip2 file begins")
    assert read(tmp_path / "a.txt") == ["BZh is how a bzip2 file begins"]


@pytest.mark.parametrize(
    ("content", "byte", "position", "line"),
    [
        (b"caf\xe9 au lait", "e9", 3, 1),
        (b"one\ntwo\nth\xffree", "ff", 10, 3),
        (b"x" * (BLOCK - 1) + b"\n" + b"y\n" * 5 + b"\x80", "80", BLOCK + 10, 7),
        ("€".encode() * (BLOCK // 3) + b"\xe2\x82" + b"\n.", "e2", BLOCK // 3 * 3, 1),
        (b"cut off \xe2\x82", "e2", 8, 1),
    ],
)
def test_invalid_utf8_names_position_and_line(
    tmp_path: Path, content: bytes, byte: str, position: int, line: int
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    expected = f"not valid UTF-8: byte 0x{byte} at position {position} (line {line})"
    assert expected in refused(tmp_path / "a.txt")


def test_wrong_rows_name_file_and_line(tmp_path: Path) -> None:
    def row(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return refused(tmp_path / name)

    assert "a.jsonl:2: not JSON: Expecting value at column 1" in row("a.jsonl", '{"text": "x"}\noops\n')
    assert 'a.jsonl:1: no column "text"; did you mean "texts"?' in row("a.jsonl", '{"texts": "x"}\n')
    assert 'a.jsonl:1: column "text" holds list, not text' in row("a.jsonl", '{"text": []}\n')
    assert "a.jsonl:1: expected an object with a text" in row("a.jsonl", "3\n")
    assert "a.jsonl:1: U+D83D at character 2 is half of" in row("a.jsonl", '{"text": "ab\\ud83d"}\n')
    assert 'a.csv: no column "text"; did you mean "Text"?' in row("a.csv", "id,Text\n1,x\n")
    assert "a.csv:3: this row has 1 columns" in row("a.csv", "id,text\n1,x\n2\n")
    assert "a.csv:2: this row has 3 columns, the header 2; put quotation marks" in row(
        "a.csv", "id,text\n1,Hello, world\n"
    )
    assert "not CSV" in row("a.csv", 'id,text\n1,x\n2,"never closed\n3,y\n4,z\n')
    assert "cannot be read as Parquet" in row("a.parquet", "not parquet at all")


def test_missing_parquet_column_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_bytes("content"))
    assert 'no column "contents"; did you mean "content"?' in refused(
        tmp_path / "a.parquet", text_column="contents"
    )
    assert 'column "id" holds int, not text' in refused(tmp_path / "a.parquet", text_column="id")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", b"not gzip"),
        ("a.gz", gzip.compress(os.urandom(10_000))[:-20]),
        ("a.zst", b"not zstandard"),
        ("a.zst", zstandard.compress(b"hello " * 1000)[:-3]),
        ("a.zst", zst(b"hello " * 1000)[:-3]),
    ],
)
def test_damaged_archives_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refused(tmp_path / name)


def test_empty_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    assert "empty.txt is empty" in refused(tmp_path / "empty.txt")
    assert "no readable file in this directory" in refused(tmp_path / "folder")


def test_input_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret.txt").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path))
    assert "no permission to read it" in refused(tmp_path / "folder" / "secret.txt")
    assert "(passed over: 1 unreadable)" in refused(tmp_path / "folder")
