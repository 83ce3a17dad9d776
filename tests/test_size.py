"""Parameters and FLOPs from the config alone, against the real module and torch's own counter."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from steepest.model import (
    Transformer,
    TransformerConfig,
    VocabularyHead,
    flops_per_token,
    n_matrix_parameters,
    n_parameters,
)

SHAPES: list[dict[str, int | bool]] = [
    {"vocab_size": 11, "depth": 1, "width": 32},
    {"vocab_size": 65, "depth": 2},
    {"vocab_size": 65, "depth": 2, "tie_embeddings": True},
    {"vocab_size": 300, "depth": 3, "width": 96, "heads": 6, "kv_heads": 2, "head_dim": 24, "mlp_width": 100},
    {"vocab_size": 7, "depth": 2, "width": 20, "heads": 4, "kv_heads": 1, "head_dim": 6, "mlp_width": 9},
]


@pytest.fixture(params=SHAPES, ids=str)
def config(request: pytest.FixtureRequest) -> TransformerConfig:
    return TransformerConfig(context=13, **request.param)


def test_parameters(config: TransformerConfig) -> None:
    trunk = Transformer(config)
    head = VocabularyHead(trunk)
    parameters = [*trunk.parameters(), *head.parameters()]
    assert n_parameters(config) == sum(p.numel() for p in parameters)
    roles = trunk.roles()
    matrices = [p.numel() for name, p in trunk.named_parameters() if roles[name] == "matrix"]
    assert n_matrix_parameters(config) == sum(matrices) + head.weight.numel()


def test_flops(config: TransformerConfig) -> None:
    trunk = Transformer(config, torch.Generator().manual_seed(0))
    head = VocabularyHead(trunk)
    for batch, length in ((1, 13), (3, 5)):
        ids = torch.arange(batch * length).view(batch, length) % config.vocab_size
        with FlopCounterMode(display=False) as forward:
            logits = head(trunk(ids, plain=True))
            loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        with FlopCounterMode(display=False) as backward:
            loss.backward()

        def counted(training: bool, length: int = length, tokens: int = ids.numel()) -> float:
            return tokens * flops_per_token(config, training=training, context=length, causal=False)

        assert forward.get_total_flops() == counted(training=False)
        assert forward.get_total_flops() + backward.get_total_flops() == counted(training=True)


def test_causal_counts_the_keys_that_are_seen(config: TransformerConfig) -> None:
    # A token of its own for every query: the mean over the text of products with 1, 2, ... T keys.
    products = 4 * config.depth * config.heads * config.head_dim
    for length in (1, 2, 13):
        pairs = sum(range(1, length + 1))
        total = length * 2 * n_matrix_parameters(config) + products * pairs
        assert length * flops_per_token(config, training=False, context=length) == pytest.approx(total)
    whole = flops_per_token(config, causal=False) - flops_per_token(config)
    assert whole == pytest.approx(3 * products * (config.context - 1) / 2)
