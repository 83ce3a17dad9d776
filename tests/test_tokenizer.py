"""The three kinds made here: every text comes back, and the ids are those of the tokenizers library."""

import json
import pickle
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers
from hypothesis import example, given

from steepest.errors import StorageError, TokenizerError
from steepest.tokenizer import Tokenizer, bytes_tokenizer, chars_tokenizer, train_bpe
from steepest.tokenizer.encoders import WordEncoder

SOURCE = Path(json.__file__).read_text()
PROSE = (
    "It was the best of times, it was the worst of times; it wasn’t «ça» — naïve 日本語の本, 😀😀.\n\n  So?\r\n"
    * 40
)
TOKENIZERS = {
    "bpe": train_bpe([SOURCE, PROSE], 600),
    "bytes": bytes_tokenizer(),
    "chars": chars_tokenizer([SOURCE, PROSE]),
}
STOCK = {kind: tokenizers.Tokenizer.from_str(made.to_json()) for kind, made in TOKENIZERS.items()}
for stock in STOCK.values():
    stock.encode_special_tokens = True  # as ours: written out in a text they are ordinary text

every_kind = pytest.mark.parametrize("kind", TOKENIZERS)
# all Unicode scalars, and texts that resemble what was learnt, so that merges and characters are met
texts = st.one_of(
    st.text(), st.lists(st.sampled_from([*"eé本 \n<|>0𝄞", "times", "  def ", "<0x41>", "it’s"])).map("".join)
)


@every_kind
@given(texts)
@example("")
@example("\x00")
@example("<|endoftext|>")
@example("a<|endoftext|>b <0x41> <unk> Ġ Ċ")
@example("\u0000\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff")
@example(PROSE + SOURCE)
def test_every_text_comes_back_with_the_ids_of_the_library(kind: str, text: str) -> None:
    tokenizer, stock = TOKENIZERS[kind], STOCK[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1 and ids.flags.writeable
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == stock.encode(text).ids
    assert stock.decode(ids.tolist()) == text
    assert tokenizer.end_of_text not in ids
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert "".join(tokenizer.decode_stream(ids)) == text


@every_kind
@pytest.mark.parametrize(
    "text",
    [" " * 1_000_000, "a" * 300_000, "\n \n" * 100_000, "-" * 300_000, "日" * 100_000, "a1 b2\n" * 50_000],
    ids=["spaces", "letters", "newlines", "symbols", "characters", "words"],
)
def test_long_and_monotonous_texts(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
@given(st.data())
def test_any_ids_decode_as_in_the_library(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    text = tokenizer.decode(ids)
    assert text == STOCK[kind].decode(ids)
    assert "".join(tokenizer.decode_stream(ids)) == text
    assert tokenizer.decode(np.array(ids, np.int64)) == text


@given(st.lists(texts, max_size=6))
def test_a_batch_is_its_texts_one_by_one(batch: list[str]) -> None:
    for tokenizer in TOKENIZERS.values():
        assert [ids.tolist() for ids in tokenizer.encode_batch(batch)] == [
            tokenizer.encode(text).tolist() for text in batch
        ]


@every_kind
def test_ids_have_one_layout(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.kind == kind
    assert tokenizer.end_of_text == 256 == STOCK[kind].token_to_id("<|endoftext|>")
    assert tokenizer.vocab_size == STOCK[kind].get_vocab_size() == len(tokenizer.token_bytes())
    assert [tokenizer.decode([byte]) for byte in range(128)] == [chr(byte) for byte in range(128)]
    assert tokenizer.decode([72, 256, 105]) == "Hi"
    assert tokenizer.token_bytes()[:257].tolist() == [1] * 256 + [0]
    assert tokenizer.token_bytes()[257:].min(initial=2) >= 2


def test_characters_have_one_id_each_and_others_their_bytes() -> None:
    tokenizer = chars_tokenizer(["ba né", "日é"])
    assert tokenizer.encode("né日").tolist() == [110, 257, 258]
    assert tokenizer.encode("😀é").tolist() == [*"😀".encode(), 257]
    assert len(TOKENIZERS["chars"].encode(PROSE)) == len(PROSE)


@every_kind
def test_half_of_a_surrogate_pair_is_refused_with_its_place(kind: str) -> None:
    with pytest.raises(TokenizerError, match=r"character 3 is U\+D83D, half of a surrogate pair"):
        TOKENIZERS[kind].encode("abc\ud83d")


@every_kind
@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(kind: str, wrong: int) -> None:
    tokenizer = TOKENIZERS[kind]
    with pytest.raises(TokenizerError, match=f"from 0 to {tokenizer.vocab_size - 1} .*got {wrong}"):
        tokenizer.decode([97, wrong])
    with pytest.raises(TokenizerError, match=f"got {wrong}"):
        list(tokenizer.decode_stream([97, wrong]))


def test_a_stream_writes_a_character_when_it_is_whole() -> None:
    ids = bytes_tokenizer().encode("é日").tolist()
    assert list(bytes_tokenizer().decode_stream(ids)) == ["é", "日"]
    assert list(bytes_tokenizer().decode_stream(ids[:-1])) == ["é", "\ufffd"]


@every_kind
def test_saved_loaded_and_pickled_it_is_the_same(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "new" / "tokenizer.json")
    stock = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert stock.encode(PROSE).ids == tokenizer.encode(PROSE).tolist()
    for same in (loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert (same.kind, same.vocab_size, same.fingerprint) == (
            kind,
            tokenizer.vocab_size,
            tokenizer.fingerprint,
        )
        assert same.encode(PROSE + SOURCE).tolist() == tokenizer.encode(PROSE + SOURCE).tolist()


def test_fingerprints_tell_tokenizers_apart() -> None:
    assert len({made.fingerprint for made in TOKENIZERS.values()}) == len(TOKENIZERS)
    assert chars_tokenizer(["é"]).fingerprint != chars_tokenizer(["è"]).fingerprint


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.tokenizer\.json: the tokenizer cannot be written: "):
        bytes_tokenizer().save(tmp_path / "file" / "tokenizer.json")


def test_transformers_reads_the_file_and_gives_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for tokenizer in TOKENIZERS.values():
        tokenizer.save(tmp_path / "tokenizer.json")
        read = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
        ids = tokenizer.encode(PROSE + SOURCE).tolist()
        assert read(PROSE + SOURCE)["input_ids"] == ids
        assert read.decode(ids, clean_up_tokenization_spaces=False) == PROSE + SOURCE


@given(st.lists(st.sampled_from([f" w{number}" for number in range(30)]), max_size=200))
def test_a_small_table_of_words_forgets_but_never_errs(parts: list[str]) -> None:
    encode = WordEncoder(lambda word: [ord(character) for character in word], limit=8)
    text = "".join(parts)
    assert encode(text).tolist() == [288 if character == " " else ord(character) for character in text]
    assert len(encode._table) + len(encode._table.old) <= 8


def test_threads_share_a_tokenizer() -> None:
    tokenizer = Tokenizer.from_json(TOKENIZERS["bpe"].to_json())
    tokenizer._encode._table.half = 5  # the table turns over all the time
    expected, results = TOKENIZERS["bpe"].encode(SOURCE).tolist(), []
    threads = [
        threading.Thread(target=lambda: results.append(tokenizer.encode(SOURCE).tolist())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
