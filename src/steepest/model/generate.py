"""Generation: draw the next token from the model's distribution, append it, repeat.

    p_v ~ exp(logit_v / temperature)      over the tokens that top-k and top-p leave

- temperature 0 takes the most likely token (greedy), small ones sharpen, 1 is the model's own distribution;
- top-k keeps the k most likely tokens;
- top-p (nucleus) keeps the smallest set of most likely tokens whose probabilities, after temperature and
  top-k, sum to at least p.

Beyond the context the window slides: when it is full, the oldest half is dropped and the rest is read again from
position 0. So every token is drawn from what the model says of the present window, exactly as without a cache,
and reading again costs one extra position a token on average.

Sources: A. Holtzman et al., "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751;
A. Fan et al., top-k, https://arxiv.org/abs/1805.04833.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from steepest.errors import ConfigError
from steepest.model.cache import KeyValueCache
from steepest.model.heads import VocabularyHead
from steepest.model.transformer import Transformer


def generate(
    trunk: Transformer,
    head: VocabularyHead,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Continue a prompt, one token at a time, as they are drawn.

    Args:
        trunk: the model; dropout is off while it is asked.
        head: its vocabulary head.
        prompt_ids: at least one id; of a prompt longer than the context the last ``context`` are read.
        max_tokens: ids to draw at most.
        temperature: 0 is greedy.
        top_k: keep this many tokens; all if ``None``.
        top_p: keep the smallest set of this mass; all if ``None``.
        generator: draws, on its own device. The same one in the same state gives the same tokens.
        stop: ids that end the sequence; the one drawn is not yielded.

    Raises:
        ConfigError: at once, if an argument is out of range.

    >>> from steepest.model import TransformerConfig
    >>> trunk = Transformer(TransformerConfig(vocab_size=10, depth=1, width=32, context=8))
    >>> len(list(generate(trunk, VocabularyHead(trunk), [1, 2], max_tokens=20)))
    20
    """
    _check_sampling(temperature, top_k, top_p)
    vocab_size = trunk.config.vocab_size
    if not len(prompt_ids):
        raise ConfigError("the prompt is empty: give at least one token, for example the end-of-text token")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
        raise ConfigError(
            f"the prompt holds ids from {min(prompt_ids)} to {max(prompt_ids)}, but the model's vocabulary is "
            f"0 to {vocab_size - 1}: encode it with the model's own tokenizer"
        )
    if max_tokens < 0:
        raise ConfigError(f"max_tokens must be 0 or more; got {max_tokens}")
    window = [int(token) for token in prompt_ids[-trunk.config.context :]]
    return _continue(trunk, head, window, max_tokens, temperature, top_k, top_p, generator, frozenset(stop))


def next_token_probabilities(
    logits_V: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution that the next token is drawn from, (V,); zero for what top-k and top-p exclude.

    Of equal probabilities at the border of the set, the lower id is kept.

    >>> logits_V = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    >>> next_token_probabilities(logits_V, top_p=0.7)  # 0.5 alone is less than 0.7
    tensor([0.6250, 0.3750, 0.0000, 0.0000])
    >>> next_token_probabilities(logits_V, temperature=0.0)
    tensor([1., 0., 0., 0.])
    """
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return torch.zeros_like(logits_V).index_fill_(0, logits_V.argmax(), 1.0)
    # The largest logit is taken off first: a tiny temperature must not overflow.
    probabilities_V = ((logits_V - logits_V.max()) / temperature).softmax(0)
    if top_k is None and top_p is None:
        return probabilities_V
    sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
    if top_k is not None and top_k < len(sorted_V):
        sorted_V[top_k:] = 0
        sorted_V /= sorted_V.sum()
    if top_p is not None and top_p < 1:  # 1 keeps all, however the sum is rounded
        before_V = sorted_V.cumsum(0) - sorted_V  # the mass of all that are likelier
        sorted_V[1:].masked_fill_(before_V[1:] >= top_p, 0)
    return torch.zeros_like(probabilities_V).scatter_(0, order_V, sorted_V / sorted_V.sum())


def _continue(
    trunk: Transformer,
    head: VocabularyHead,
    window: list[int],
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
    stop: frozenset[int],
) -> Iterator[int]:
    context = trunk.config.context
    cache, unread = trunk.new_cache(), window
    for _ in range(max_tokens):
        logits_V = _last_logits(trunk, head, unread, cache)
        probabilities_V = next_token_probabilities(
            logits_V, temperature=temperature, top_k=top_k, top_p=top_p
        )
        if generator is not None:  # the same draws on every device
            probabilities_V = probabilities_V.to(generator.device)
        token = int(torch.multinomial(probabilities_V, 1, generator=generator).item())
        if token in stop:
            return
        yield token
        if len(window) == context:
            window = window[len(window) - context // 2 :]
            cache.clear()
            unread = [*window, token]
        else:
            unread = [token]
        window = [*window, token]


@torch.no_grad()
def _last_logits(trunk: Transformer, head: VocabularyHead, ids: list[int], cache: KeyValueCache) -> Tensor:
    """Logits after the last of ``ids``, which follow those in the cache."""
    training = trunk.training
    trunk.eval()
    try:
        hidden_BTD: Tensor = trunk(torch.tensor([ids], device=head.weight.device), cache=cache)
        logits_V: Tensor = head(hidden_BTD[0, -1])
    finally:
        trunk.train(training)
    return logits_V.float() if logits_V.dtype != torch.float64 else logits_V


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be a finite number, 0 (greedy) or more; got {temperature}")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be 1 or more, or left out to keep every token; got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p must be above 0 and at most 1; got {top_p}")
