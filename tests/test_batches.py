"""Batches: the permutation is one, the order is pure, every token is a target once, documents keep apart."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.data.batches import IGNORE, Batches, evaluation_batches
from steepest.data.permutation import derive_keys, permute
from steepest.data.store import TokenStore
from steepest.errors import DataError

END = 0


def make_store(lengths: list[int], seed: int = 0) -> TokenStore:
    """Documents of given lengths, each token its own number, so that a token says where it stood."""
    tokens, starts = [], []
    for length in lengths:
        starts.append(len(tokens))
        tokens += [len(tokens) + i + 1 for i in range(length)] + [END]
    return TokenStore(np.array(tokens, np.uint32), np.array(starts), n_bytes=len(tokens))


def flat_store(n: int) -> TokenStore:
    return TokenStore(np.arange(n, dtype=np.uint32), np.array([0]), n_bytes=n)


# ---------------------------------------------------------------------------------------- permutation


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_permutation_is_one_to_one(n: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


def test_permutation_is_one_to_one_where_it_matters() -> None:
    for n in [*range(1, 200), 255, 256, 257, 10_007, 65_536, 99_991, 1 << 17]:
        assert np.array_equal(np.sort(permute(np.arange(n), n, 12345)), np.arange(n)), n


def test_permutation_of_a_huge_range_stays_inside_and_apart() -> None:
    n = 10**15 + 37
    images = permute(np.arange(10_000), n, 3)
    assert images.min() >= 0 and images.max() < n
    assert len(np.unique(images)) == 10_000
    assert abs(images.mean() / n - 0.5) < 0.02  # four standard errors are 0.0116


def chi_square(counts: np.ndarray) -> float:
    """The statistic in standard deviations from its mean."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def test_all_orders_of_four_are_equally_frequent() -> None:
    keys = derive_keys(0, np.arange(24_000))
    orders = np.stack([permute(np.full(24_000, i), 4, keys) for i in range(4)], axis=1)
    seen = Counter(map(tuple, orders.tolist()))
    assert abs(chi_square(np.array([seen[order] for order in permutations(range(4))]))) < 4


@pytest.mark.parametrize("n", [17, 100, 1000])
def test_permutation_looks_uniform(n: int) -> None:
    """Place and value are independent, and so are neighbours."""
    keys = derive_keys(1, np.arange(200_000 // n))
    orders = permute(np.tile(np.arange(n), (len(keys), 1)), n, np.repeat(keys[:, None], n, axis=1))
    for column in (0, n // 2, n - 1):
        assert abs(chi_square(np.bincount(orders[:, column], minlength=n))) < 4
    step = (orders[:, 1:] - orders[:, :-1]) % n
    assert abs(chi_square(np.bincount(step.ravel(), minlength=n)[1:])) < 4


# -------------------------------------------------------------------------------------------- order


def test_order_is_pure() -> None:
    store = flat_store(1000)
    first, second = (Batches(store, context=16, batch=8, seed=5) for _ in range(2))
    forwards = [first.at(step).ids_BT for step in range(20)]
    for step in reversed(range(20)):
        assert torch.equal(second.at(step).ids_BT, forwards[step])
    assert not torch.equal(Batches(store, context=16, batch=8, seed=6).at(0).ids_BT, forwards[0])
    assert torch.equal(next(first).ids_BT, forwards[0]) and torch.equal(next(first).ids_BT, forwards[1])


@given(world=st.integers(1, 9), step=st.integers(0, 50), batch=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_together_are_one_machine(world: int, step: int, batch: int) -> None:
    batches = Batches(make_store([30, 5, 61, 200]), context=8, batch=batch, seed=1, document_mask=True)
    whole = batches.at(step)
    parts = [batches.at(step, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(torch.cat([part.ids_BT for part in parts]), whole.ids_BT)
    assert torch.equal(torch.cat([part.targets_BT for part in parts]), whole.targets_BT)
    assert torch.equal(torch.cat([part.document_ids_BT for part in parts]), whole.document_ids_BT)
    assert sum(part.n_targets for part in parts) == whole.n_targets == batch * 8


def test_batch_size_does_not_change_the_sequence() -> None:
    store = flat_store(777)
    rows = {
        size: torch.cat(
            [Batches(store, context=8, batch=size, seed=3).at(step).ids_BT for step in range(240 // size)]
        )
        for size in (1, 5, 24, 240)
    }
    assert all(torch.equal(each, rows[1]) for each in rows.values())


def test_micro_batches_are_the_batch() -> None:
    batch = Batches(make_store([50, 60]), context=8, batch=10, seed=0, document_mask=True).at(0)
    parts = batch.split(3)
    assert [len(part.ids_BT) for part in parts] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([part.targets_BT for part in parts]), batch.targets_BT)
    assert torch.equal(torch.cat([part.document_ids_BT for part in parts]), batch.document_ids_BT)
    assert batch.split(10) == [batch]


@pytest.mark.parametrize(("n", "context"), [(1000, 8), (1003, 10), (97, 16), (17, 16), (33, 16)])
def test_every_token_is_a_target_about_once_per_epoch(n: int, context: int) -> None:
    batches = Batches(flat_store(n), context=context, batch=n // context, seed=2)
    assert batches.n_sequences == n // context
    total = np.zeros(n, int)
    for epoch in range(40):
        counts = np.bincount(batches.at(epoch).targets_BT.numpy().ravel(), minlength=n)
        assert counts.max() == 1
        assert (counts == 0).sum() == n % context
        total += counts
    assert total.min() > 0


def test_windows_move_from_epoch_to_epoch() -> None:
    batches = Batches(flat_store(1024), context=8, batch=128, seed=0)
    remainders = {int(batches.at(epoch).ids_BT[0, 0]) % 8 for epoch in range(30)}
    orders = {tuple(batches.at(epoch).ids_BT[:, 0].tolist()) for epoch in range(30)}
    assert len(remainders) > 4 and len(orders) == 30
    assert batches.epoch(3) == 3.0


def test_a_tiny_store_goes_through_many_epochs_in_a_batch() -> None:
    batch = Batches(flat_store(20), context=16, batch=64, seed=0).at(0)
    assert batch.ids_BT.shape == (64, 16) and len(torch.unique(batch.ids_BT[:, 0])) > 10


def test_targets_are_the_next_tokens_in_long_integers() -> None:
    batch = Batches(flat_store(500), context=12, batch=6, seed=0).at(7)
    assert batch.ids_BT.dtype == batch.targets_BT.dtype == torch.int64
    assert batch.ids_BT.is_contiguous() and batch.targets_BT.is_contiguous()
    assert torch.equal(batch.targets_BT, (batch.ids_BT + 1) % 500)
    assert batch.document_ids_BT is None


def test_text_shorter_than_one_sequence_is_refused_with_the_figures() -> None:
    with pytest.raises(DataError, match=r"16 tokens to train on, a context of 16 needs 17"):
        Batches(flat_store(16), context=16, batch=1, seed=0)


# -------------------------------------------------------------------------------------------- state


def test_state_round_trip() -> None:
    store = flat_store(1000)
    batches = Batches(store, context=16, batch=8, seed=5)
    for _ in range(7):
        next(batches)
    state = batches.state_dict()
    again = Batches(store, context=16, batch=8, seed=5)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert torch.equal(next(again).ids_BT, next(batches).ids_BT)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 6}, "seed 5, this run has 6"),
        ({"context": 8}, "context 16, this run has 8"),
        ({"batch": 4}, "batch 8, this run has 4"),
        ({"document_mask": True}, "document_mask False, this run has True"),
        ({"store": flat_store(1001)}, "fingerprint"),
    ],
)
def test_state_of_another_sequence_is_refused(change: dict[str, object], named: str) -> None:
    settings = {"store": flat_store(1000), "context": 16, "batch": 8, "seed": 5}
    state = Batches(**settings).state_dict()
    with pytest.raises(DataError, match=named):
        Batches(**{**settings, **change}).load_state_dict(state)


# ---------------------------------------------------------------------------------------- documents


def documents_slowly(store: TokenStore, start: int, context: int) -> list[int]:
    """Walk the ring token by token; an end-of-text opens the next document."""
    ids, document = [], 0
    for t in range(context):
        if t > 0 and store.tokens[(start + t) % len(store.tokens)] == END:
            document += 1
        ids.append(document)
    return ids


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    context=st.integers(1, 40),
    seed=st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_document_ids_equal_the_slow_walk(lengths: list[int], context: int, seed: int) -> None:
    store = make_store(lengths)
    if len(store.tokens) <= context:
        return
    batch = Batches(store, context=context, batch=6, seed=seed, document_mask=True).at(seed)
    position = {int(token): place for place, token in enumerate(store.tokens) if token != END}
    for ids, targets, documents in zip(batch.ids_BT, batch.targets_BT, batch.document_ids_BT, strict=True):
        known = next(t for t, token in enumerate([*ids, targets[-1]]) if int(token) != END)
        start = (position[int([*ids, targets[-1]][known])] - known) % len(store.tokens)
        assert documents.tolist() == documents_slowly(store, start, context)


def test_no_prediction_crosses_documents() -> None:
    """With the mask, the first token of a document is predicted from the end-of-text alone."""
    store = make_store([3, 4, 2])
    (batch,) = evaluation_batches(store, context=12, batch=1, document_mask=True)
    assert batch.ids_BT.tolist() == [[END, 1, 2, 3, END, 5, 6, 7, 8, END, 10, 11]]
    assert batch.document_ids_BT.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]]
    assert batch.targets_BT.tolist() == [[1, 2, 3, END, 5, 6, 7, 8, END, 10, 11, END]]
    assert batch.n_targets == 12


# --------------------------------------------------------------------------------------- evaluation


@given(n=st.integers(2, 300), context=st.integers(1, 40), batch=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_evaluation_predicts_every_token_once(n: int, context: int, batch: int) -> None:
    parts = list(evaluation_batches(flat_store(n), context=context, batch=batch))
    targets = torch.cat([part.targets_BT.flatten() for part in parts])
    ids = torch.cat([part.ids_BT.flatten() for part in parts])
    counted = targets != IGNORE
    assert sorted(targets[counted].tolist()) == list(range(n))
    assert torch.equal((ids[counted] + 1) % n, targets[counted])
    assert sum(part.n_targets for part in parts) == n
    assert all(part.n_targets == int((part.targets_BT != IGNORE).sum()) for part in parts)


def test_a_short_evaluation_is_spread_over_the_store() -> None:
    parts = list(evaluation_batches(flat_store(10_000), context=10, batch=3, max_tokens=100))
    targets = torch.cat([part.targets_BT[:, 0] for part in parts])
    assert targets.tolist() == list(range(0, 10_000, 1000))


@pytest.mark.parametrize("n", [500, 512, 513, 1023])
def test_as_many_tokens_as_there_are_means_all_of_them(n: int) -> None:
    parts = evaluation_batches(flat_store(n), context=256, batch=2, max_tokens=n)
    assert sum(part.n_targets for part in parts) == n


def test_nothing_to_evaluate_is_refused_at_once() -> None:
    empty = TokenStore(np.empty(0, np.uint16), np.empty(0, np.int64), 0)
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluation_batches(empty, context=8, batch=1)
