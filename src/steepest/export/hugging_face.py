"""A trained model as a Hugging Face folder: a stock ``Qwen3ForCausalLM`` that anyone can load, verified.

    config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json  README.md

The trunk computes what Qwen3 computes, so nothing but names changes: ``qkv`` and ``gate_up``, each stored here as
one matrix, are cut into the matrices that Qwen3 names apart. With the extra ``export`` (transformers) the folder is
loaded back before it appears under its name, and its logits on random ids and its tokenizer's ids are held to ours.

Source: A. Yang et al., "Qwen3", https://arxiv.org/abs/2505.09388.
"""

import json
import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from steepest.atomic_folder import atomic_folder
from steepest.errors import CheckpointError, ConfigError, StorageError
from steepest.model import Transformer, TransformerConfig, VocabularyHead
from steepest.tokenizer import Tokenizer

TOLERANCE = 1e-4  # of a logit, as a share of the logits' standard deviation
SAMPLE = 'The fox\n\tjumps: "Ünïcode" 😀 12.\r\n  End'


def export_hugging_face(
    trunk: Transformer, head: VocabularyHead, tokenizer: Tokenizer, folder: Path, *, card: str = ""
) -> float | None:
    """Write a folder that ``transformers`` and everything built on it loads; whole and verified, or not at all.

    Args:
        folder: must not exist, or be empty.
        card: text of the README.

    Returns:
        The largest difference of a logit from ours; ``None`` if ``transformers`` is not installed to tell.

    Raises:
        ConfigError: the model's coupling is reversible, which no stock class computes.
        StorageError: the folder is taken or cannot be written.
        CheckpointError: what was loaded back does not compute the same.
    """
    if trunk.config.coupling != "residual":
        raise ConfigError(
            "a reversible model cannot be exported: no stock class computes its two streams; "
            'train with model.coupling = "residual" for a model that others can load'
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is there already; give the name of a new folder")
    weights = qwen3_weights(trunk, head)
    files = {
        "config.json": qwen3_config(trunk.config, tokenizer.end_of_text),
        "generation_config.json": {
            "bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text, "do_sample": True,
            "temperature": 0.8, "top_p": 0.95,
        },
        "tokenizer_config.json": _tokenizer_config(tokenizer, trunk.config.context),
    }  # fmt: skip
    with atomic_folder(folder, needed=sum(weight.nbytes for weight in weights.values())) as temporary:
        for name, values in files.items():
            (temporary / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(temporary / "tokenizer.json")
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "README.md").write_text(card or _card(trunk.config), encoding="utf-8")
        return None if find_spec("transformers") is None else _verify(trunk, head, tokenizer, temporary)


def qwen3_weights(trunk: Transformer, head: VocabularyHead) -> dict[str, Tensor]:
    """The weights under Qwen3's names, stacked matrices cut apart; a tied head is stored once.

    >>> trunk = Transformer(TransformerConfig(vocab_size=20, depth=1, width=32, tie_embeddings=True))
    >>> names = qwen3_weights(trunk, VocabularyHead(trunk))
    >>> len(names), names["model.layers.0.self_attn.k_proj.weight"].shape
    (13, torch.Size([32, 32]))
    """
    state = {"model.embed_tokens.weight": trunk.embedding.weight, "model.norm.weight": trunk.norm.weight}
    if not trunk.config.tie_embeddings:
        state["lm_head.weight"] = head.weight
    splits = trunk.splits()
    for index in range(trunk.config.depth):
        theirs, ours = f"model.layers.{index}", f"blocks.{index}"
        for parts, name in (
            (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), f"{ours}.attention.qkv.weight"),
            (("mlp.gate_proj", "mlp.up_proj"), f"{ours}.mlp.gate_up.weight"),
        ):
            rows = torch.split(trunk.get_parameter(name), list(splits[name]))
            state |= {f"{theirs}.{part}.weight": row for part, row in zip(parts, rows, strict=True)}
        for part, name in (
            ("self_attn.q_norm", "attention.q_norm"),
            ("self_attn.k_norm", "attention.k_norm"),
            ("self_attn.o_proj", "attention.out"),
            ("mlp.down_proj", "mlp.down"),
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "mlp_norm"),
        ):
            state[f"{theirs}.{part}.weight"] = trunk.get_parameter(f"{ours}.{name}.weight")
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def qwen3_config(config: TransformerConfig, end_of_text: int) -> dict[str, Any]:
    """The content of ``config.json``, as a stock Qwen3 reads it.

    >>> qwen3_config(TransformerConfig(vocab_size=512, depth=4), end_of_text=256)["num_attention_heads"]
    4
    """
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }


def _tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    end = json.loads(tokenizer.to_json())["added_tokens"]
    name = next(token["content"] for token in end if token["id"] == tokenizer.end_of_text)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "pad_token": name,
        "model_max_length": context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _card(config: TransformerConfig) -> str:
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"A transformer of {config.depth} layers x {config.width}, context {config.context}, vocabulary "
        f"{config.vocab_size}, trained from scratch with steepest. Texts begin with the end-of-text token.\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        'ids = tokenizer(tokenizer.bos_token + "Once", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0]))\n"
        "```\n"
    )


@torch.no_grad()
def _verify(trunk: Transformer, head: VocabularyHead, tokenizer: Tokenizer, folder: Path) -> float:
    """Load the folder as anyone would and hold it to the original; the largest difference of a logit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's, not ours
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        theirs = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        logging.enable_progress_bar()
        read = AutoTokenizer.from_pretrained(folder).encode(SAMPLE, add_special_tokens=False, verbose=False)
    length = min(trunk.config.context, 256)
    ids = torch.randint(trunk.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    was_training, device = trunk.training, next(trunk.parameters()).device
    trunk.eval()
    ours = head(trunk(ids.to(device))).float().cpu()
    trunk.train(was_training)
    logits = theirs.eval()(input_ids=ids).logits
    difference = float((logits - ours).abs().max())
    if not difference <= TOLERANCE * ours.std().item() or math.isnan(difference):
        raise CheckpointError(
            f"the exported model computes other logits than the run (largest difference {difference:.2g}); "
            "nothing was written; try another version of transformers"
        )
    if read != tokenizer.encode(SAMPLE).tolist():
        raise CheckpointError("the exported tokenizer gives other ids than the run's; nothing was written")
    return difference
