"""The mask is the graph: exact at any depth, the fast path is the slow one, and hooks see every token."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.data.questions import QuestionBatches, Questions, inclusion
from steepest.graph import Graph, closed
from steepest.model import Transformer, TransformerConfig
from steepest.model.attention import causal_mask
from steepest.objectives import CausalGraph

# The shape of "asia", and a denser graph with hidden causes.
ASIA = Graph(
    [("asia", "tub"), ("smoke", "lung"), ("smoke", "bronc"), ("tub", "either"), ("lung", "either"),
     ("either", "xray"), ("either", "dysp"), ("bronc", "dysp")]
)  # fmt: skip
DENSE = Graph(
    [(a, b) for b in "bcdefg" for a in "abcdefg" if a < b and (ord(a) + ord(b)) % 3], [("a", "d"), ("c", "f")]
)


def loud(graph: Graph, cards: list[int], depth: int, dtype: torch.dtype = torch.float32) -> CausalGraph:
    """A model whose weights are large, so that a leak would show."""
    config = TransformerConfig(
        vocab_size=sum(cards) + len(cards), depth=depth, width=32, head_dim=16, context=2 * len(cards)
    )
    generator = torch.Generator().manual_seed(0)
    objective = CausalGraph(Transformer(config, generator), cards, graph.contexts).to(dtype).eval()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return objective


def rows_of(cards: list[int], n: int, seed: int = 0) -> Tensor:
    dice = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([dice.integers(0, card, n) for card in cards], axis=1))


def test_a_texts_mask_is_the_complete_graph_over_its_positions() -> None:
    graph = Graph.complete([f"token {i}" for i in range(6)])
    mask = torch.eye(6, dtype=torch.bool)
    for i, context in enumerate(graph.contexts):
        mask[i, list(context)] = True
    assert torch.equal(mask, causal_mask(6)) and closed(mask.numpy())


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("graph", [ASIA, DENSE], ids=["asia", "dense"])
def test_only_the_context_moves_a_column_and_all_of_it_does(graph: Graph, depth: int) -> None:
    cards = [2 + i % 2 for i in range(len(graph))]
    objective, rows = loud(graph, cards, depth), rows_of(cards, 24)
    allowed = np.zeros((len(graph), len(graph)), dtype=bool)
    for i, context in enumerate(graph.contexts):
        allowed[i, list(context)] = True
    with torch.no_grad():
        before = objective.whole_rows(rows)
        for j, card in enumerate(cards):
            moved = torch.zeros(len(graph))
            for k in range(1, card):
                other = rows.clone()
                other[:, j] = (other[:, j] + k) % card
                change = (objective.whole_rows(other) - before).nan_to_num(0.0).abs().amax((0, 2))
                moved = torch.maximum(moved, change)
            assert moved[~allowed[:, j]].max() == 0.0  # to the bit
            assert not allowed[:, j].any() or moved[allowed[:, j]].min() > 1e-3


def test_a_parent_mask_on_one_token_a_column_leaks_ancestors_through_depth() -> None:
    """Why there are two tokens a column: a -> b -> c, where c must not see a once b is known."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert not closed(mask.numpy())
    for depth, leaks in ((1, False), (2, True)):
        trunk = loud(Graph.complete(["a", "b", "c"]), [2, 2, 2], depth).trunk
        places = torch.zeros(3, dtype=torch.int64)
        with torch.no_grad():
            c = [trunk(torch.tensor([[a, 2, 4]]), mask=mask[None], positions_BT=places)[0, 2] for a in (0, 1)]
        assert bool((c[0] != c[1]).any()) == leaks


def test_positions_leak_no_order() -> None:
    """All tokens stand at position 0: renaming the columns renames the answers, and nothing else."""
    graph = Graph([("a", "c"), ("b", "c")], names=["a", "b", "c"])
    objective = loud(graph, [2, 2, 2], 2, torch.float64)
    ids = objective.sequence(torch.tensor([[0, 1, 0]]))
    with torch.no_grad():
        here = objective.log_probabilities(torch.tensor([[8, 0, 3]]))  # c? given a=0, b=1
        there = objective.log_probabilities(torch.tensor([[8, 3, 0]]))  # the same, told in the other order
        whole = objective.whole_rows(torch.tensor([[0, 1, 0]]))[:, 2]
    assert ids.tolist() == [[0, 3, 4, 6, 7, 8]]
    torch.testing.assert_close(here, there, rtol=0, atol=1e-12)
    torch.testing.assert_close(here, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", [ASIA, DENSE, Graph(names=["a", "b"])], ids=["asia", "dense", "no edges"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_fast_path_is_the_slow_one(graph: Graph, depth: int) -> None:
    """Every distinct question once, through the cache, gives what whole rows give: loss and gradient."""
    cards = [2 + i % 3 for i in range(len(graph))]
    fast, slow = (loud(graph, cards, depth, torch.float64) for _ in range(2))
    rows = rows_of(cards, 60)
    batch = Questions(rows.numpy(), cards, graph.contexts).batch()
    loss = fast.loss(batch)
    targets = (rows + torch.from_numpy(slow.start[:-1])).unsqueeze(-1)
    twin = -slow.whole_rows(rows, plain=True).gather(-1, targets).sum()
    torch.testing.assert_close(loss, twin, rtol=1e-10, atol=0)
    loss.backward()
    twin.backward()
    for (name, a), (_, b) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("micro_batch", [1, 7, 1000])
def test_micro_batches_add_up_to_the_whole(micro_batch: int) -> None:
    cards = [2, 3, 2, 3, 2, 3, 2]
    parts, whole = (loud(DENSE, cards, 1, torch.float64) for _ in range(2))
    batch = Questions(rows_of(cards, 80).numpy(), cards, DENSE.contexts).batch()
    mean = parts.accumulate_gradient(batch, micro_batch=micro_batch)
    assert sum(part.n_targets for part in batch.split(micro_batch)) == batch.n_targets == 80 * 7
    loss = whole.loss(batch) / batch.n_targets
    loss.backward()
    torch.testing.assert_close(mean, loss.detach(), rtol=1e-10, atol=0)
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-12)


def test_drawn_questions_weigh_as_all_of_them_do() -> None:
    """Horvitz and Thompson: the mean over many draws is the sum over everything, frequent questions exactly."""
    cards = [3] * 7
    questions = Questions(rows_of(cards, 300).numpy(), cards, DENSE.contexts)
    batches = QuestionBatches(questions, batch=60, seed=0)
    assert len(questions) > 120
    chance = inclusion(questions.rows_Q, 60)
    assert chance.sum() == pytest.approx(60) and (chance == 1).any() and (chance < 1).any()
    total = np.zeros(len(questions))
    place = {tuple(row): q for q, row in enumerate(questions.ids_QT.tolist())}
    for step in range(400):
        batch = batches.at(step)
        assert len(batch.ids_BT) == 60
        which = [place[tuple(row)] for row in batch.ids_BT.tolist()]
        np.add.at(total, np.array(which)[batch.question_N.numpy()], batch.weight_N.numpy() / 400)
    np.testing.assert_allclose(total[chance == 1], questions.rows_Q[chance == 1], rtol=1e-5)
    assert total.sum() == pytest.approx(questions.rows_Q.sum(), rel=0.02)
    again = QuestionBatches(questions, batch=60, seed=0).at(7)
    assert torch.equal(again.ids_BT, batches.at(7).ids_BT)


def test_blocks_return_the_residual_stream_so_that_hooks_can_patch_it() -> None:
    """The recipe of the docs: activation patching is do() on a node of the network's own graph."""
    objective, n = loud(ASIA, [2] * 8, 2), 8
    lung, smoke = ASIA.index["lung"], ASIA.index["smoke"]
    clean, other = (torch.zeros(1, n, dtype=torch.int64) for _ in range(2))
    other[0, smoke] = 1

    def patched(layer: int, token: int) -> Tensor:
        kept: dict[str, Tensor] = {}

        def keep(module: Any, inputs: Any, out: Tensor) -> None:
            kept["stream"] = out

        def swap(module: Any, inputs: Any, out: Tensor) -> Tensor:
            assert out.shape == (1, 2 * n, 32)  # (batch, tokens, width)
            out = out.clone()
            out[:, token] = kept["stream"][:, token]
            return out

        with torch.no_grad():
            hook = objective.trunk.blocks[layer].register_forward_hook(keep)
            objective.whole_rows(other)
            hook.remove()
            hook = objective.trunk.blocks[layer].register_forward_hook(swap)
            try:
                return objective.whole_rows(clean)[0, lung, 2 * lung : 2 * lung + 2].exp()
            finally:
                hook.remove()

    with torch.no_grad():
        base, full = (
            objective.whole_rows(rows)[0, lung, 2 * lung : 2 * lung + 2].exp() for rows in (clean, other)
        )
    moved = {token for token in range(2 * n) if not torch.equal(patched(0, token), base)}
    assert moved == {smoke, n + lung}  # after block 1: the cause's value, and the question itself
    torch.testing.assert_close(
        patched(1, n + lung), full
    )  # after the last block the question has read it all
    assert torch.equal(patched(1, smoke), base)
