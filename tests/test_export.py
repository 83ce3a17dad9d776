"""Export: transformers loads what was written, as a stock Qwen3 with the same logits, ids and samples."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest import api
from steepest.errors import CheckpointError, ConfigError, StorageError
from steepest.export import export_hugging_face
from steepest.model import Transformer, TransformerConfig, VocabularyHead
from steepest.tokenizer import Tokenizer, bytes_tokenizer, train_bpe

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")


def a_model(tokenizer: Tokenizer, **fields: Any) -> tuple[Transformer, VocabularyHead]:
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, **{"depth": 2, "width": 64, "context": 40, **fields}
    )
    trunk = Transformer(config)
    dice = torch.Generator().manual_seed(1)
    head = VocabularyHead(trunk)
    with torch.no_grad():
        for parameter in (*trunk.parameters(), head.weight):  # none stays zero: every weight must matter
            parameter.add_(torch.randn(parameter.shape, generator=dice) * 0.1)
    return trunk, head


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tie_embeddings": True},
        {"heads": 4, "kv_heads": 2, "head_dim": 16, "rope_theta": 500.0, "norm_eps": 1e-3},
    ],
    ids=str,
)
def test_transformers_loads_the_same_model(tmp_path: Path, fields: dict[str, Any]) -> None:
    tokenizer = train_bpe(["she sells sea shells by the sea shore. " * 9], vocab_size=270)
    trunk, head = a_model(tokenizer, **fields)
    difference = export_hugging_face(trunk, head, tokenizer, tmp_path / "model")
    assert difference is not None and difference < 1e-4
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    ids = torch.tensor([tokenizer.encode("she sells no ünicode").tolist()])
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, head(trunk(ids)), rtol=1e-4, atol=1e-5)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert read("she sells")["input_ids"] == tokenizer.encode("she sells").tolist()
    assert read.decode(read("sea  shells")["input_ids"]) == "sea  shells"
    assert read.eos_token_id == tokenizer.end_of_text


def test_a_wrong_weight_is_found_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.export import hugging_face

    right = hugging_face.qwen3_weights

    def swapped(trunk: Transformer, head: VocabularyHead) -> dict[str, torch.Tensor]:
        weights = right(trunk, head)
        one, other = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
        return weights | {one: weights[other], other: weights[one]}

    monkeypatch.setattr(hugging_face, "qwen3_weights", swapped)
    tokenizer = bytes_tokenizer()
    with pytest.raises(CheckpointError, match="other logits"):
        export_hugging_face(*a_model(tokenizer), tokenizer, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_refusals_change_nothing(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    with pytest.raises(ConfigError, match="reversible"):
        export_hugging_face(*a_model(tokenizer, coupling="reversible"), tokenizer, tmp_path / "model")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="there already"):
        export_hugging_face(*a_model(tokenizer), tokenizer, tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "model").exists()


def test_a_run_is_exported_whole(tmp_path: Path, text_file: Path) -> None:
    run = api.train(text_file, steps=2, runs=tmp_path / "runs", cache=tmp_path / "cache", name="tiny", config={
        "model": {"depth": 1, "width": 32, "context": 32}, "batches": {"batch_tokens": 64},
        "tokenizer": {"kind": "bytes"}, "train": {"sample_tokens": 0},
    })  # fmt: skip
    assert run.export(tmp_path / "out") is not None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "README.md",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 32
