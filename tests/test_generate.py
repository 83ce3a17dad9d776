"""Generation: cached equals uncached, the sliding window equals a slow twin, draws follow the stated distribution."""

from collections.abc import Iterator
from itertools import chain, combinations, pairwise

import pytest
import torch
from torch import Tensor

from steepest.errors import ConfigError, SteepestError
from steepest.model import (
    KeyValueCache,
    Transformer,
    TransformerConfig,
    VocabularyHead,
    generate,
    next_token_probabilities,
)
from steepest.tokenizer import bytes_tokenizer

CHI_SQUARE_999 = {3: 16.27, 7: 24.32}  # 99.9% quantiles by degrees of freedom


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(seed: int = 0, **fields: object) -> tuple[Transformer, VocabularyHead]:
    """A model whose every weight matters: nothing is left at its initial zero or one."""
    shape = {"vocab_size": 23, "context": 12, "depth": 2, "width": 32, "head_dim": 8, "kv_heads": 2, **fields}
    trunk = Transformer(TransformerConfig(**shape), dice(seed))  # type: ignore[arg-type]
    head = VocabularyHead(trunk)
    generator = dice(seed + 1)
    with torch.no_grad():
        for parameter in chain(trunk.parameters(), head.parameters()):
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        head.weight.mul_(3)
    return trunk, head


def constant_model(logits_V: Tensor, context: int = 16) -> tuple[Transformer, VocabularyHead]:
    """A model that says the same after every text: equal embeddings, blocks that still add nothing."""
    trunk = Transformer(
        TransformerConfig(vocab_size=len(logits_V), context=context, depth=1, width=32), dice()
    )
    head = VocabularyHead(trunk)
    with torch.no_grad():
        trunk.embedding.weight.fill_(1.0)
        head.matrix[:, 0] = logits_V
    return trunk, head


def successor_model(succeeds: dict[int, int], vocab_size: int) -> tuple[Transformer, VocabularyHead]:
    """A model sure that ``succeeds[token]`` follows ``token``."""
    trunk = Transformer(TransformerConfig(vocab_size=vocab_size, context=8, depth=1, width=288), dice())
    head = VocabularyHead(trunk)
    with torch.no_grad():
        trunk.embedding.weight.copy_(torch.eye(vocab_size, 288))
        for token, following in succeeds.items():
            head.matrix[following, token] = 10.0
    return trunk, head


def expected_draws(
    trunk: Transformer, head: VocabularyHead, prompt: list[int], n: int, generator: torch.Generator
) -> list[int]:
    """Slow twin: no cache, the whole present window read for every token; a full window loses its older half."""
    context, drawn = trunk.config.context, []
    window = prompt[-context:]
    for _ in range(n):
        with torch.no_grad():
            p_V = head(trunk(torch.tensor([window]))[0, -1]).softmax(0)
        drawn.append(int(torch.multinomial(p_V, 1, generator=generator)))
        window = [*(window if len(window) < context else window[context - context // 2 :]), drawn[-1]]
    return drawn


def chi_square(draws: list[int], p_V: Tensor) -> float:
    possible = p_V > 0
    seen_V = torch.bincount(torch.tensor(draws), minlength=len(p_V)).double()
    assert seen_V[~possible].sum() == 0
    wanted_V = p_V.double()[possible] * len(draws)
    return float(((seen_V[possible] - wanted_V) ** 2 / wanted_V).sum())


@pytest.mark.parametrize("parts", [[12], [1] * 12, [5, 1, 1, 1, 1, 1, 1, 1], [3, 4, 5]])
@pytest.mark.parametrize(
    "fields", [{"kv_heads": 4}, {"kv_heads": 2}, {"kv_heads": 1, "tie_embeddings": True}]
)
def test_cached_logits_equal_uncached_at_every_position(parts: list[int], fields: dict[str, object]) -> None:
    trunk, head = random_model(**fields)
    ids_BT = torch.randint(0, 23, (3, 12), generator=dice(5))
    with torch.no_grad():
        whole_BTV = head(trunk(ids_BT))
        cache = trunk.new_cache(batch=3)
        cached_BTV = torch.cat([head(trunk(part, cache=cache)) for part in ids_BT.split(parts, dim=1)], dim=1)
    assert len(cache) == 12 and whole_BTV.std() > 0.5
    torch.testing.assert_close(cached_BTV, whole_BTV, rtol=0, atol=1e-5)


def test_a_cleared_cache_remembers_nothing() -> None:
    trunk, _ = random_model()
    cache = trunk.new_cache()
    with torch.no_grad():
        trunk(torch.tensor([[1, 2, 3, 4]]), cache=cache)
        cache.clear()
        again = trunk(torch.tensor([[5, 6]]), cache=cache)
        torch.testing.assert_close(again, trunk(torch.tensor([[5, 6]])), rtol=0, atol=1e-5)


def test_a_cache_too_small_or_a_context_too_short_says_so() -> None:
    trunk, _ = random_model()
    with pytest.raises(ConfigError, match="13 positions are more than the context of 12"):
        trunk(torch.zeros(1, 13, dtype=torch.int64))
    cache = KeyValueCache(depth=2, kv_heads=2, head_dim=8, capacity=3)
    trunk(torch.zeros(1, 2, dtype=torch.int64), cache=cache)
    with pytest.raises(ConfigError, match="holds 3 positions, 2 are taken and 2 more came"):
        trunk(torch.zeros(1, 2, dtype=torch.int64), cache=cache)


@pytest.mark.parametrize("context", [1, 2, 7, 12])
@pytest.mark.parametrize("prompt", [[3], list(range(12)), list(range(20))])
def test_generation_past_the_context_equals_the_slow_twin(context: int, prompt: list[int]) -> None:
    trunk, head = random_model(context=context)
    trunk.double()
    head.double()
    drawn = list(generate(trunk, head, prompt, max_tokens=30, generator=dice(7)))
    assert drawn == expected_draws(trunk, head, prompt, 30, dice(7))
    assert len(set(drawn)) > 5


def test_of_a_prompt_longer_than_the_context_only_the_end_is_read() -> None:
    trunk, head = random_model()
    end = [4, 8, 15, 16, 22, 1, 9, 0, 2, 6, 3, 5]
    long = list(generate(trunk, head, [7, 7, 7, *end], max_tokens=20, generator=dice()))
    assert long == list(generate(trunk, head, end, max_tokens=20, generator=dice()))


def test_temperature_zero_is_argmax() -> None:
    trunk, head = random_model()
    text = [3, 1]
    for token in generate(trunk, head, text, max_tokens=10, temperature=0.0):
        with torch.no_grad():
            assert token == int(head(trunk(torch.tensor([text])))[0, -1].argmax())
        text = [*text, token]
    torch.testing.assert_close(
        next_token_probabilities(torch.tensor([0.0, 2.0, 1.0]), temperature=1e-40),
        torch.tensor([0.0, 1.0, 0.0]),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_top_k_is_the_best_set_of_k_tokens(seed: int, temperature: float) -> None:
    logits_V = torch.randn(7, generator=dice(seed), dtype=torch.float64)
    p_V = (logits_V / temperature).exp() / (logits_V / temperature).exp().sum()
    for k in range(1, 9):
        best = max(combinations(range(7), min(k, 7)), key=lambda kept: float(p_V[list(kept)].sum()))
        wanted_V = torch.zeros(7, dtype=torch.float64)
        wanted_V[list(best)] = p_V[list(best)] / p_V[list(best)].sum()
        torch.testing.assert_close(
            next_token_probabilities(logits_V, temperature=temperature, top_k=k), wanted_V
        )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_k", [None, 4])
def test_top_p_is_the_smallest_set_of_that_mass(seed: int, top_k: int | None) -> None:
    logits_V = 2 * torch.randn(7, generator=dice(seed), dtype=torch.float64)
    p_V = next_token_probabilities(logits_V, top_k=top_k)
    subsets = [list(kept) for n in range(1, 8) for kept in combinations(range(7), n)]
    for top_p in (0.01, 0.2, 0.5, 0.8, 0.95, 0.999):
        enough = [kept for kept in subsets if p_V[kept].sum() >= top_p]
        fewest = min(len(kept) for kept in enough)
        best = max((kept for kept in enough if len(kept) == fewest), key=lambda kept: float(p_V[kept].sum()))
        wanted_V = torch.zeros(7, dtype=torch.float64)
        wanted_V[best] = p_V[best] / p_V[best].sum()
        torch.testing.assert_close(next_token_probabilities(logits_V, top_k=top_k, top_p=top_p), wanted_V)


def test_top_p_one_keeps_every_token_and_ties_keep_the_lower_id() -> None:
    logits_V = torch.linspace(0, -17, 4096)
    torch.testing.assert_close(
        next_token_probabilities(logits_V, top_p=1.0), logits_V.softmax(0), rtol=1e-4, atol=0
    )
    assert next_token_probabilities(torch.zeros(4), top_k=2).tolist() == [0.5, 0.5, 0, 0]
    assert next_token_probabilities(torch.zeros(4), top_p=0.5).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("sampling", "freedom"),
    [({}, 7), ({"temperature": 0.5}, 7), ({"top_k": 4}, 3), ({"top_p": 0.8}, 3)],
)
def test_draws_follow_the_softmax(sampling: dict[str, float], freedom: int) -> None:
    logits_V = torch.tensor([1.2, 0.9, 0.5, 0.4, -0.6, -0.8, -0.9, -1.1])
    p_V = (logits_V / sampling.get("temperature", 1.0)).softmax(0)
    if freedom == 3:  # the first four hold 0.83 of the mass, the first three 0.70
        p_V = torch.cat((p_V[:4] / p_V[:4].sum(), torch.zeros(4)))
    trunk, head = constant_model(logits_V)
    draws = list(generate(trunk, head, [0], max_tokens=1000, generator=dice(11), **sampling))  # type: ignore[arg-type]
    assert chi_square(draws, p_V) < CHI_SQUARE_999[freedom]
    wrong_V = torch.cat((p_V[p_V > 0].flip(0), p_V[p_V == 0]))
    assert chi_square(draws, wrong_V) > CHI_SQUARE_999[freedom]  # the test can tell


def test_the_same_seed_writes_the_same_and_another_does_not() -> None:
    trunk, head = random_model(dropout=0.5)
    trunk.train()
    first = list(generate(trunk, head, [1], max_tokens=25, generator=dice(3)))
    assert first == list(generate(trunk, head, [1], max_tokens=25, generator=dice(3)))
    assert first != list(generate(trunk, head, [1], max_tokens=25, generator=dice(4)))
    assert trunk.training  # left as it was found


def test_stop_tokens_end_it_and_are_not_written() -> None:
    trunk, head = successor_model({0: 1, 1: 2, 2: 3, 3: 0}, 5)
    assert list(generate(trunk, head, [0], max_tokens=6, temperature=0)) == [1, 2, 3, 0, 1, 2]
    assert list(generate(trunk, head, [0], max_tokens=6, temperature=0, stop=[3, 4])) == [1, 2]
    assert list(generate(trunk, head, [0], max_tokens=6, temperature=0, stop={1})) == []
    assert list(generate(trunk, head, [0], max_tokens=0)) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"temperature": -0.1}, r"temperature must be .*; got -0.1"),
        ({"temperature": float("nan")}, r"temperature must be .*; got nan"),
        ({"temperature": float("inf")}, r"temperature must be .*; got inf"),
        ({"top_k": 0}, r"top_k must be .*; got 0"),
        ({"top_k": -3}, r"top_k must be .*; got -3"),
        ({"top_p": 0.0}, r"top_p must be .*; got 0.0"),
        ({"top_p": 1.5}, r"top_p must be .*; got 1.5"),
        ({"top_p": float("nan")}, r"top_p must be .*; got nan"),
        ({"max_tokens": -1}, r"max_tokens must be .*; got -1"),
        ({"prompt_ids": []}, r"the prompt is empty: give at least one token"),
        ({"prompt_ids": [1, 23]}, r"ids from 1 to 23, .* 0 to 22"),
        ({"prompt_ids": [-1]}, r"ids from -1 to -1"),
    ],
)
def test_bad_arguments_are_one_clear_line_at_once(arguments: dict[str, object], says: str) -> None:
    trunk, head = random_model()
    with pytest.raises(ConfigError, match=says) as caught:
        generate(trunk, head, **{"prompt_ids": [1], **arguments})  # type: ignore[arg-type]  # not even iterated
    assert isinstance(caught.value, SteepestError) and "\n" not in str(caught.value)


def test_characters_of_several_bytes_stream_as_soon_as_they_are_whole() -> None:
    tokenizer = bytes_tokenizer()
    text = "é€😀!"  # 2, 3, 4 and 1 bytes, all different
    chain_ids = [tokenizer.end_of_text, *text.encode(), tokenizer.end_of_text]
    trunk, head = successor_model(dict(pairwise(chain_ids)), tokenizer.vocab_size)
    drawn: list[int] = []

    def spied() -> Iterator[int]:
        for token in generate(
            trunk, head, [tokenizer.end_of_text], temperature=0.0, stop=[tokenizer.end_of_text]
        ):
            drawn.append(token)
            yield token

    pieces = [(piece, len(drawn)) for piece in tokenizer.decode_stream(spied())]
    assert pieces == [("é", 2), ("€", 5), ("😀", 9), ("!", 10)]
    cut = tokenizer.decode_stream(generate(trunk, head, [chain_ids[0]], max_tokens=3, temperature=0.0))
    assert "".join(cut) == "é\ufffd"  # the text ended within a character
