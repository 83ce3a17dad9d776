"""The trunk: who depends on whom, by gradients; equality with stock Qwen3; its shapes, start and errors."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.errors import ConfigError
from steepest.export.hugging_face import qwen3_weights
from steepest.model import (
    Block,
    Transformer,
    TransformerConfig,
    VocabularyHead,
    config_from_depth,
    document_mask,
)

WIDTH, T = 32, 9


def small(**fields: Any) -> TransformerConfig:
    shape = {
        "vocab_size": 17,
        "context": 16,
        "depth": 2,
        "width": WIDTH,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
    }
    return TransformerConfig(**{**shape, **fields})


def trained(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A trunk whose every weight is at work: drawn at random, as if training had moved them from zero."""
    generator = torch.Generator().manual_seed(seed)
    trunk = Transformer(config, generator)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    return trunk


def tokens(batch: int = 2, length: int = T) -> Tensor:
    return torch.randint(17, (batch, length), generator=torch.Generator().manual_seed(1))


def run_from_states(trunk: Transformer, states_BTD: Tensor, **how: Any) -> Tensor:
    """The trunk from the embedded states on."""
    rotation = trunk.rotation(torch.arange(states_BTD.shape[1]), states_BTD.dtype)
    for block in trunk.blocks:
        states_BTD = block(states_BTD, rotation, **how)
    normed: Tensor = trunk.norm(states_BTD, plain=how.get("plain", False))
    return normed


def reached(trunk: Transformer, **how: Any) -> Tensor:
    """(B, T, T): whether the gradient of output i by the state at j is not exactly zero."""
    states = trunk.embedding(tokens()).detach().requires_grad_()
    out = run_from_states(trunk, states, **how)
    weights = torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    rows = []
    for i in range(T):
        (gradient,) = torch.autograd.grad((out[:, i] @ weights).sum(), states, retain_graph=True)
        rows.append((gradient != 0).any(-1))
    return torch.stack(rows, 1)


def paths(mask_BTT: Tensor, depth: int) -> Tensor:
    """What can be reached in ``depth`` blocks: each passes along an edge, or stays where it is."""
    step = (mask_BTT | torch.eye(T, dtype=torch.bool)).float()
    return torch.linalg.matrix_power(step, depth) > 0


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
def plain(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_no_position_depends_on_a_later_one(plain: bool) -> None:
    assert torch.equal(reached(trained(small()), plain=plain), torch.ones(2, T, T).tril().bool())


def test_no_position_depends_on_another_document(plain: bool) -> None:
    mask = document_mask(torch.tensor([[0] * 4 + [1] * 5, [0] + [1] * 3 + [2] * 5]))
    assert torch.equal(reached(trained(small()), mask=mask, plain=plain), mask)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_dependence_follows_any_graph(depth: int, plain: bool) -> None:
    mask = torch.rand(2, T, T, generator=torch.Generator().manual_seed(3)) < 0.15
    mask[0, 2] = False
    got = reached(trained(small(depth=depth)), mask=mask, plain=plain)
    assert torch.equal(got, paths(mask, depth)) and not got.all()


def test_later_tokens_and_other_documents_change_nothing(plain: bool) -> None:
    trunk, ids = trained(small()), tokens()
    moved = ids.clone()
    moved[:, 5:] = (moved[:, 5:] + 1) % 17
    assert torch.equal(trunk(ids, plain=plain)[:, :5], trunk(moved, plain=plain)[:, :5])
    # A document by itself, at the positions it has in the row, gives what it gives in the row.
    mask = document_mask(torch.tensor([[0] * 4 + [1] * 5]))
    packed = trunk(ids, mask=mask, plain=plain)[:, 4:]
    alone = trunk(ids[:, 4:], positions_BT=torch.arange(4, T), plain=plain)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    # Only distances count: at positions of its own, too.
    torch.testing.assert_close(packed, trunk(ids[:, 4:], plain=plain), rtol=0, atol=1e-5)


def test_positions_of_each_row() -> None:
    trunk, ids = trained(small()).double(), tokens()
    rows = torch.stack((torch.arange(T), torch.arange(T) * 2))
    got = trunk(ids, positions_BT=rows)
    for b in range(2):
        torch.testing.assert_close(
            got[b : b + 1], trunk(ids[b : b + 1], positions_BT=rows[b]), rtol=0, atol=1e-12
        )
    assert not torch.allclose(got[1], trunk(ids)[1])


def test_fast_equals_plain_in_value_and_every_gradient() -> None:
    trunk, ids = trained(small()).double(), tokens()
    weights = torch.randn(2, T, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    outcomes = []
    for plain in (False, True):
        out = trunk(ids, plain=plain)
        outcomes.append((out, *torch.autograd.grad((out * weights).sum(), list(trunk.parameters()))))
    for fast, slow in zip(*outcomes, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


def test_plain_has_derivatives_of_any_order() -> None:
    trunk = trained(small(depth=1, width=8, heads=2, kv_heads=1, head_dim=4, mlp_width=6)).double()
    states = torch.randn(
        1, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    ).requires_grad_()

    def function(states: Tensor) -> Tensor:
        return run_from_states(trunk, states, plain=True)[:, :, :3]

    assert torch.autograd.gradcheck(function, (states,))
    assert torch.autograd.gradgradcheck(function, (states,))
    # The third along a line, against central differences of the second.
    direction = torch.randn(states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def along(s: float, order: int) -> Tensor:
        x = torch.tensor(s, dtype=torch.float64, requires_grad=True)
        y = function(states + x * direction).square().sum()
        for _ in range(order):
            (y,) = torch.autograd.grad(y, x, create_graph=True)
        return y.detach()

    slope = (along(1e-4, 2) - along(-1e-4, 2)) / 2e-4
    torch.testing.assert_close(along(0.0, 3), slope, rtol=1e-5, atol=1e-6)


def test_fast_weight_gradients_by_finite_differences() -> None:
    trunk = trained(small(depth=1)).double()
    ids = tokens(1, 4)
    names = [
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.k_norm.weight",
        "blocks.0.mlp.gate_up.weight",
    ]
    for name in names:
        weight = trunk.get_parameter(name)
        (gradient,) = torch.autograd.grad(trunk(ids).sin().sum(), weight)
        direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        sides = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                weight += step * direction
                sides.append(trunk(ids).sin().sum().item())
            weight += 1e-6 * direction
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


# Stock Qwen3


QWEN_SHAPES: list[dict[str, Any]] = [
    {"tie_embeddings": False},
    {"tie_embeddings": True},
    {"heads": 4, "kv_heads": 1, "tie_embeddings": True},
    {"heads": 3, "kv_heads": 3, "head_dim": 24, "width": 40, "mlp_width": 56},
    {"heads": 6, "kv_heads": 2, "head_dim": 16, "rope_theta": 500.0, "norm_eps": 1e-3, "depth": 3},
]


@pytest.mark.filterwarnings("ignore")  # of a library that is not ours
@pytest.mark.parametrize("fields", QWEN_SHAPES, ids=str)
def test_equals_stock_qwen3(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    config = small(**fields)
    trunk = trained(config)
    head = VocabularyHead(trunk)
    with torch.no_grad():
        head.weight.normal_(0, config.width**-0.5, generator=torch.Generator().manual_seed(8))
    theirs = transformers.Qwen3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation="eager",
        use_cache=False,
    )
    qwen = transformers.Qwen3ForCausalLM(theirs).eval()
    qwen.load_state_dict({**qwen3_weights(trunk, head), "lm_head.weight": head.weight}, strict=True)
    with torch.no_grad():
        expected = qwen(input_ids=tokens()).logits
        for plain in (False, True):
            torch.testing.assert_close(head(trunk(tokens(), plain=plain)), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.3  # not equal for being nothing


# Shapes, start, errors


def test_one_dial() -> None:
    for depth in range(1, 9):
        config = config_from_depth(depth, vocab_size=100, context=32)
        assert config == TransformerConfig(depth=depth, vocab_size=100, context=32)
        assert config.width == 64 * depth == config.heads * config.head_dim
        assert config.head_dim == (32 if depth == 1 else 64)
        assert config.kv_heads == config.heads
        assert config.mlp_width % 32 == 0 and abs(config.mlp_width / config.width - 8 / 3) <= 0.34
    assert config_from_depth(3, vocab_size=9, context=8, width=96).head_dim == 32
    assert config_from_depth(3, vocab_size=9, context=8, heads=6).kv_heads == 6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 100}, ["100", "head_dim 32", "heads"]),
        ({"heads": 4, "kv_heads": 3}, ["heads 4", "kv_heads 3"]),
        ({"head_dim": 7, "heads": 2}, ["even", "7"]),
        ({"dropout": 1.0}, ["dropout"]),
        ({"rope_theta": 0}, ["rope_theta"]),
        ({"widht": 64}, ["widht", "width"]),
        ({"width": 0}, ["width"]),
    ],
)
def test_config_errors(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_depth(2, vocab_size=10, context=8, **fields)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_depth_errors() -> None:
    with pytest.raises(ConfigError, match="depth"):
        config_from_depth(-1, vocab_size=10, context=8)


def test_without_blocks_a_token_is_its_normed_vector() -> None:
    trunk = trained(small(depth=0))
    vectors = trunk.embedding.weight[tokens()]
    expected = vectors / (vectors.square().mean(dim=-1, keepdim=True) + trunk.config.norm_eps).sqrt()
    torch.testing.assert_close(trunk(tokens()), expected * trunk.norm.weight)


def test_longer_than_the_context() -> None:
    trunk = Transformer(small(context=4))
    assert trunk(tokens(length=4)).shape == (2, 4, WIDTH)
    with pytest.raises(ConfigError, match=r"5 positions.*context of 4"):
        trunk(tokens(length=5))


def test_same_generator_same_weights() -> None:
    config = small(tie_embeddings=False)
    state = torch.random.get_rng_state()
    a, b, c = (Transformer(config, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is not touched
    for (name, x), y, z in zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        drawn = name.startswith("embedding") or "qkv" in name or "gate_up" in name
        assert torch.equal(x, z) is not drawn


def test_initial_scales() -> None:
    trunk = Transformer(small(width=128, vocab_size=500), torch.Generator().manual_seed(0))
    assert trunk.embedding.weight.std().item() == pytest.approx(1, rel=0.02)
    for block in trunk.blocks:
        for layer in (block.attention.qkv, block.mlp.gate_up):
            assert layer.weight.std().item() == pytest.approx(0.7 / math.sqrt(128), rel=0.03)


def test_blocks_start_as_the_identity_and_map_streams_to_streams(plain: bool) -> None:
    trunk = Transformer(small(), torch.Generator().manual_seed(0))
    stream = torch.randn(2, T, WIDTH, generator=torch.Generator().manual_seed(1))
    rotation = trunk.rotation(torch.arange(T))
    for block in trunk.blocks:
        assert isinstance(block, Block)
        assert torch.equal(block(stream, rotation, plain=plain), stream)
    working = trained(small())
    for block in working.blocks:
        out = block(stream, working.rotation(torch.arange(T)), plain=plain)
        assert out.shape == stream.shape and not torch.allclose(out, stream)


def test_every_weight_learns_within_two_steps() -> None:
    # Zero output matrices hold back what feeds them for one step, not longer.
    trunk = Transformer(small(), torch.Generator().manual_seed(0))
    for expected in (["attention.out", "mlp.down"], ["attention", "mlp"]):
        trunk.zero_grad()
        trunk(tokens()).sin().sum().backward()
        moved = [name for name, p in trunk.named_parameters() if p.grad is not None and p.grad.any()]
        blocks = [
            name for name in trunk.state_dict() if "blocks" in name and any(e in name for e in expected)
        ]
        assert set(blocks) <= set(moved)
        with torch.no_grad():
            for parameter in trunk.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad


def test_dropout_only_in_training() -> None:
    trunk = trained(small(dropout=0.3))
    none = trained(small())
    ids = tokens()
    torch.manual_seed(0)
    first, second = trunk(ids), trunk(ids)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(trunk(ids), first)
    trunk.eval()
    assert torch.equal(trunk(ids), none(ids)) and torch.equal(trunk(ids), trunk(ids))


def test_dropout_keeps_the_mean_of_what_a_block_adds() -> None:
    block = trained(small(dropout=0.5)).blocks[0]
    torch.manual_seed(0)
    dropped = block._drop(torch.ones(100_000))
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and dropped.mean().item() == pytest.approx(
        1, abs=0.02
    )


def test_bfloat16_autocast_is_close(plain: bool) -> None:
    trunk, ids = trained(small()), tokens()
    exact = trunk(ids)
    (gradient,) = torch.autograd.grad(exact.sin().sum(), trunk.blocks[0].attention.qkv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        near = trunk(ids, plain=plain)
        loss = near.float().sin().sum()
    (near_gradient,) = torch.autograd.grad(loss, trunk.blocks[0].attention.qkv.weight)
    assert (near.float() - exact).norm() <= 0.02 * exact.norm()
    assert near_gradient.dtype == torch.float32
    assert (near_gradient - gradient).norm() <= 0.05 * gradient.norm()


def test_roles_and_splits_name_every_matrix() -> None:
    trunk = Transformer(small())
    roles, splits = trunk.roles(), trunk.splits()
    assert list(roles) == [name for name, _ in trunk.named_parameters()]
    assert {name for name, role in roles.items() if role == "embedding"} == {"embedding.weight"}
    for name, parameter in trunk.named_parameters():
        assert (roles[name] == "vector") == (parameter.ndim == 1)
        assert sum(splits.get(name, (len(parameter),))) == len(parameter)
    assert len(splits) == 2 * trunk.config.depth and all(roles[name] == "matrix" for name in splits)
