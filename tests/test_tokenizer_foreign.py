"""Foreign files: used as they are, the same ids as the library, and every broken one refused in one line."""

import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from steepest.errors import TokenizerError
from steepest.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer, train_bpe
from steepest.tokenizer.byte_level import assemble, recognise

PLAIN = "the cat sat on the mat, and the cats sat on the mats. " * 20
Maker = Callable[[], tokenizers.Tokenizer]
SAMPLE = "the cats sat, 日本 é 😀 on <0x41> mats\n"


def made_once(make: Maker) -> Maker:
    """Training some models gives other tokens every time: train once, then copy."""
    made = cache(make)
    return wraps(make)(lambda: tokenizers.Tokenizer.from_str(made().to_str()))


@made_once
def gpt2() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([PLAIN], trainer)
    return made


@made_once
def bert() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        [PLAIN], trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return made


@made_once
def llama() -> tokenizers.Tokenizer:
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator([PLAIN], trainers.BpeTrainer(vocab_size=60, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [tuple(pair) for pair in model["merges"]]
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


@made_once
def unigram() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "<eos>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([PLAIN], trainer)
    return made


MAKERS = [gpt2, bert, llama, unigram]
every_maker = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)


@every_maker
@pytest.mark.parametrize("text", [PLAIN, SAMPLE, "", "a", "the cat"])
def test_ids_and_text_are_those_of_the_library(maker: Maker, text: str) -> None:
    stock, ours = maker(), Tokenizer(maker())
    ids = ours.encode(text)
    assert ours.kind == "file"
    assert ids.dtype == np.int32 and ids.tolist() == stock.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == stock.decode(ids.tolist())
    assert "".join(ours.decode_stream(ids)) == ours.decode(ids)
    assert Tokenizer.from_json(ours.to_json()).fingerprint == ours.fingerprint


@every_maker
def test_bytes_of_tokens_add_up_to_the_text(maker: Maker) -> None:
    ours = Tokenizer(maker())
    counts = ours.token_bytes()
    ids = ours.encode(PLAIN)
    assert counts.shape == (ours.vocab_size,) and counts[ours.end_of_text] == 0
    # word pieces put no space before a comma, and a first word has one space less
    assert abs(int(counts[ids].sum()) - len(ours.decode(ids).encode())) <= 1


def test_every_byte_counts_one() -> None:
    counts = Tokenizer(llama()).token_bytes()
    assert counts[3:259].tolist() == [1] * 256
    assert (
        Tokenizer(llama()).token_bytes()[Tokenizer(llama()).encode("x日")].sum() == 5
    )  # with the space put before


def test_lossless_tells_whether_text_comes_back() -> None:
    assert Tokenizer(gpt2()).lossless(SAMPLE)
    assert Tokenizer(llama()).lossless("the cats sat on 日本 mats")
    assert not Tokenizer(bert()).lossless("The cat")
    assert not Tokenizer(unigram()).lossless("日本")


@pytest.mark.parametrize(("maker", "name"), [(bert, "[SEP]"), (llama, "</s>"), (unigram, "<eos>")])
def test_a_known_end_of_text_is_found(maker: Maker, name: str) -> None:
    assert Tokenizer(maker()).end_of_text == maker().token_to_id(name)
    assert Tokenizer(maker()).vocab_size == maker().get_vocab_size()


def test_a_missing_end_of_text_is_added_after_all_ids() -> None:
    stock, ours = gpt2(), Tokenizer(gpt2())
    assert ours.end_of_text == stock.get_vocab_size() == ours.vocab_size - 1
    again = Tokenizer.from_json(ours.to_json())
    assert (again.end_of_text, again.vocab_size) == (ours.end_of_text, ours.vocab_size)
    assert ours.decode([ours.end_of_text]) == ""


def test_special_tokens_in_a_text_are_ordinary_text() -> None:
    for maker in (gpt2, bert, llama):  # a unigram model can itself hold the special token as a piece
        ours = Tokenizer(maker())
        assert ours.end_of_text not in ours.encode("the </s> [SEP] <eos> <|endoftext|> cat")


def test_truncation_padding_and_dropout_are_switched_off() -> None:
    made = gpt2()
    made.enable_truncation(5)
    made.enable_padding(length=1000)
    made.model.dropout = 0.9
    ours = Tokenizer(made)
    assert ours.decode(ours.encode(PLAIN)) == PLAIN
    assert ours.encode(PLAIN).tolist() == gpt2().encode(PLAIN).ids
    assert ours.fingerprint == Tokenizer(gpt2()).fingerprint


def test_ids_may_have_gaps() -> None:
    model = models.WordLevel({"a": 0, "b": 7, "<unk>": 3}, unk_token="<unk>")
    ours = Tokenizer(tokenizers.Tokenizer(model))
    assert ours.vocab_size > max(7, ours.end_of_text)
    assert len(ours.token_bytes()) == ours.vocab_size
    assert ours.decode([7, 5]) == "b"


def test_a_text_the_file_cannot_encode_is_one_clear_error() -> None:
    ours = Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>")))
    with pytest.raises(TokenizerError, match=r"this tokenizer\.json cannot encode the text: .*UNK"):
        ours.encode("zebra")


def test_ours_is_recognised_by_its_pipeline_and_nothing_else() -> None:
    ours = json.loads(train_bpe([PLAIN], 270).to_json())
    assert recognise(ours) == "bpe"
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
        {"decoder": None},
        {"model": ours["model"] | {"ignore_merges": True}},
        {"model": ours["model"] | {"vocab": {**ours["model"]["vocab"], "zz": 999}}},
    ):
        assert recognise(ours | change) is None
    extra = assemble("bpe", ())
    extra.add_tokens([AddedToken("cat")])
    assert Tokenizer(extra).kind == "file"


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "[]", "3", "null", "{}", '{"model": 3}', '{"model": {}}', "[" * 10**5]
)
def test_a_file_that_is_no_tokenizer_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_truncated_or_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = train_bpe([PLAIN], 270).to_json()
    path = tmp_path / "tokenizer.json"
    damaged = json.loads(whole)
    damaged["model"]["merges"].append(["not", "there"])
    empty = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    for text in (whole[: len(whole) // 2], json.dumps(damaged), json.dumps(empty)):
        path.write_text(text)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
            Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="not UTF-8"):
        Tokenizer.load(path)


def test_a_path_as_kind(tmp_path: Path) -> None:
    trained = train_bpe([PLAIN], 270)
    trained.save(tmp_path / "tokenizer.json")
    for kind in (tmp_path, tmp_path / "tokenizer.json"):
        made = make_tokenizer(TokenizerConfig(kind=str(kind)), tuple, 0)
        assert (made.kind, made.fingerprint) == ("bpe", trained.fingerprint)
    for kind in ("bqe", str(tmp_path / "missing.json")):
        with pytest.raises(
            TokenizerError, match=r'expected "auto", "bpe", "bytes", "chars" or the path .*no such file'
        ):
            make_tokenizer(TokenizerConfig(kind=kind), tuple, 0)
    with pytest.raises(TokenizerError, match="no such tokenizer file"):
        Tokenizer.load(tmp_path / "missing.json")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(tmp_path)
