"""The probe reads what autograd computes, and the model never notices."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.data import Batch
from steepest.errors import ConfigError
from steepest.health import Probe, WeightSample, gradient_flow
from steepest.health.gradient_flow import mean_cosine
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import NextToken

VOCAB, DEPTH, ROWS, LENGTH = 31, 3, 4, 12


def objective(**fields: object) -> NextToken:
    """A small model in the middle of training: nothing is zero any more."""
    config = TransformerConfig(vocab_size=VOCAB, depth=DEPTH, width=32, context=LENGTH, **fields)
    made = NextToken(Transformer(config, torch.Generator().manual_seed(0)), np.ones(VOCAB, dtype=np.int64))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made.train()


def batch(rows: int = ROWS) -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCAB, (rows, LENGTH + 1), generator=generator)
    return Batch(ids[:, :-1], ids[:, 1:], None, rows * LENGTH)


def rms(x: torch.Tensor) -> float:
    return x.detach().double().square().mean().sqrt().item()


def test_stream_gradients_are_those_of_a_pass_written_out() -> None:
    model, data = objective(), batch()
    flow = gradient_flow(model, data)
    trunk = model.trunk
    streams = [trunk.embedding(data.ids_BT)]
    rotation = trunk.rotation(torch.arange(LENGTH))
    for block in trunk.blocks:
        streams.append(block(streams[-1], rotation, plain=True))
    logits = model.head(trunk.norm(streams[-1], plain=True))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), data.targets_BT.flatten())
    gradients = torch.autograd.grad(loss, [*streams, *model.parameters()])
    torch.testing.assert_close(flow["stream"]["activation"], [rms(x) for x in streams], rtol=1e-3, atol=0)
    expected = [rms(g) for g in gradients[: len(streams)]]
    torch.testing.assert_close(flow["stream"]["gradient"], expected, rtol=1e-3, atol=0)
    assert flow["first_to_last"] == pytest.approx(expected[0] / expected[-1], rel=1e-3)
    by_name = dict(zip(dict(model.named_parameters()), gradients[len(streams) :], strict=True))
    for index in range(DEPTH):
        parts = [
            g.flatten() for name, g in by_name.items() if f"blocks.{index}.attention." in name and g.ndim == 2
        ]
        assert flow["attention"]["gradient"][index] == pytest.approx(rms(torch.cat(parts)), rel=1e-3)
    assert flow["head"]["gradient"][0] == pytest.approx(rms(by_name["head.matrix"]), rel=1e-3)


def test_largest_logit_is_that_of_the_formula() -> None:
    model, data = objective(kv_heads=1), batch(rows=1)
    flow = gradient_flow(model, data)
    trunk, inputs = model.trunk, []
    handles = [
        block.attention.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        for block in trunk.blocks
    ]
    trunk(data.ids_BT)
    for handle in handles:
        handle.remove()
    cos, sin = trunk.rotation(torch.arange(LENGTH))
    for block, x, found in zip(trunk.blocks, inputs, flow["attention"]["logit"], strict=True):
        attention = block.attention
        heads = (attention.qkv.weight @ x[0].T).T.unflatten(-1, (-1, attention.head_dim))

        def turned(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
            x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain
            half = x.shape[-1] // 2
            c, s = cos.reshape(LENGTH, 1, -1)[..., :half], sin.reshape(LENGTH, 1, -1)[..., :half]
            a, b = x[..., :half], x[..., half:]
            return torch.cat([a * c - b * s, b * c + a * s], -1)

        q = turned(heads[:, : attention.heads], attention.q_norm.weight)
        k = turned(heads[:, attention.heads : attention.heads + 1], attention.k_norm.weight)
        scores = torch.einsum("thd,sgd->hts", q, k) / attention.head_dim**0.5
        assert found == pytest.approx(scores.tril().abs().max().item(), rel=1e-3)


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.2}, {"coupling": "reversible", "dropout": 0.2}])
def test_the_model_never_notices(fields: dict[str, object]) -> None:
    def step(probed: bool) -> list[torch.Tensor]:
        model, data = objective(**fields), batch()
        torch.manual_seed(5)
        if probed:
            gradient_flow(model, data)
            assert model.training and model.trunk.backward in ("store", "invert")
        loss = model.accumulate_gradient(data, micro_batch=2)
        if probed:
            held = [p.grad.clone() for p in model.parameters()]
            gradient_flow(model, data)
            assert all(torch.equal(a, p.grad) for a, p in zip(held, model.parameters(), strict=True))
        return [loss, torch.rand(1), *(p.grad for p in model.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(step(False), step(True), strict=True))


def test_recomputed_blocks_and_micro_batches_give_the_same_figures() -> None:
    data = batch()
    whole = gradient_flow(objective(), data)
    recomputing = objective()
    recomputing.trunk.set_backward("recompute")
    assert gradient_flow(recomputing, data) == whole
    parts = gradient_flow(objective(), data, micro_batch=1)
    for role, figures in whole.items():
        if role != "first_to_last":
            for name in {"gradient", "activation", "weight"} & set(figures):
                torch.testing.assert_close(parts[role][name], figures[name], rtol=2e-3, atol=0)


def test_reversible_streams_are_read_at_every_block() -> None:
    flow = gradient_flow(objective(coupling="reversible"), batch())
    assert len(flow["stream"]["gradient"]) == DEPTH + 1 and all(flow["stream"]["gradient"])
    assert 1 / 3 < flow["first_to_last"] < 3


def test_dead_units_are_counted() -> None:
    model = objective()
    with torch.no_grad():
        mlp = model.trunk.blocks[1].mlp
        mlp.gate_up.weight[: mlp.down.in_features // 4] = 0.0
    assert gradient_flow(model, batch())["mlp"]["dead"] == [0.0, 0.25, 0.0]


def test_a_sample_tells_how_far_all_of_a_matrix_moved() -> None:
    layer = nn.Linear(300, 200, bias=False)
    sample, before = WeightSample(layer), layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 0.01 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    assert sample.moved()["weight"] == pytest.approx(rms(layer.weight - before), rel=0.05)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    pairs = [
        torch.cosine_similarity(rows[i], rows[j], dim=0).item()
        for i in range(20)
        for j in range(20)
        if i != j
    ]
    assert mean_cosine(rows) == pytest.approx(math.fsum(pairs) / len(pairs), rel=1e-5)


def test_figures_that_are_not_finite_are_null() -> None:
    model = objective()
    with torch.no_grad():
        model.trunk.blocks[0].mlp.down.weight[0, 0] = math.inf
    flow = gradient_flow(model, batch())
    assert flow["stream"]["gradient"][-1] is None and flow["first_to_last"] is None


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'no module "trunk.nrom"; did you mean "trunk.norm"'):
        Probe(objective(), inputs=["trunk.nrom"])


@pytest.mark.parametrize(
    ("residual", "gain", "low", "high"),
    [(False, 1 / 3, 0.0, 1e-6), (True, 1 / 3, 0.5, 5.0), (True, 2.0, 1e4, 1e12), (False, 2.0, 3.0, 1e6)],
    ids=["plain, torch's initial weights", "residual", "residual, He", "plain, He"],
)
def test_depth_without_norms_as_the_books_say(residual: bool, gain: float, low: float, high: float) -> None:
    """A stack of 16 two-layer ReLU maps, 64 wide; variance of a weight ``gain / width``."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = (nn.Linear(64, 64, bias=False) for _ in range(2))
            for layer in (self.inner, self.outer):
                nn.init.normal_(layer.weight, std=(gain / 64) ** 0.5, generator=generator)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            added = self.outer(self.inner(x).relu())
            return x + added if residual else added

    generator = torch.Generator().manual_seed(0)
    stack = nn.Sequential(*[Part() for _ in range(16)])
    x = torch.randn(256, 64, generator=generator, requires_grad=True)
    with Probe(stack, inputs=["0"], outputs=["15"]) as probe:
        stack(x).square().sum().backward()
    seen = probe.read()
    assert low <= seen["0 in"].gradient / seen["15 out"].gradient <= high
