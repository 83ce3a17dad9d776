"""Rules: what is chosen where nothing has been measured yet, or where measuring cannot tell.

    size        tokens that the time buys / matrix parameters  ~  TOKENS_PER_PARAMETER
    batch       the power of two next to 1.5 sqrt(tokens of the run)
    dropout     0.03 an epoch, from the fourth on

Four tokens a parameter is what the first minutes of training ask for (measured, docs/planning.md); long runs of
large models ask for about 20 (J. Hoffmann et al., https://arxiv.org/abs/2203.15556). The rungs of a ladder follow
the same rules as the run they stand for, each at its own size.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from steepest.model import TransformerConfig
from steepest.optim import OptimConfig, default_lr

TOKENS_PER_PARAMETER = 4.0
# Passes over the text, after which a run by the clock ends, for more would be learnt by heart; parameters a token of text.
MOST_EPOCHS, LARGEST_SHARE = 7.0, 12.0
ROW_RATES = {"embedding_lr": 8.0, "head_lr": 2.0}  # with Muon, of text: measured, dev/LOG.md
MICRO_BATCH_TOKENS = 4096  # tokens whose activations are held at once on a CPU

# Depth and width from small to large; heads of 64, so no width below 128 but the smallest.
FAMILY = (
    (1, 64), (1, 128), (2, 128), (3, 128), (4, 128), (5, 128), (6, 128), (4, 192), (5, 192), (6, 192), (5, 256),
    (6, 256), (8, 256), (6, 384), (8, 384), (8, 512), (10, 640), (12, 768), (16, 1024),
)  # fmt: skip


def member(fixed: dict[str, Any], shape: tuple[int, int]) -> TransformerConfig:
    """A trunk of some depth and width, with what is fixed of its config."""
    return TransformerConfig(**{"depth": shape[0], "width": shape[1], **fixed})


def choose_size(sizes: Sequence[int], bought: Sequence[float], unique: int) -> int:
    """Which of some sizes to train, given the tokens that the time buys for each.

    The one whose tokens per parameter are nearest to ``TOKENS_PER_PARAMETER``; but where that would repeat the text more
    than ``MOST_EPOCHS`` times, a larger one that sees it less often, up to ``LARGEST_SHARE`` parameters a token of text.

    >>> sizes, bought = [200_000, 400_000, 800_000, 1_600_000], [4e6, 2e6, 1e6, 5e5]
    >>> [choose_size(sizes, bought, unique) for unique in (10_000_000, 200_000, 20_000)]
    [1, 2, 1]
    """
    return min(
        allowed_sizes(sizes, bought, unique),
        key=lambda index: abs(math.log(bought[index] / sizes[index] / TOKENS_PER_PARAMETER)),
    )


def allowed_sizes(sizes: Sequence[int], bought: Sequence[float], unique: int) -> list[int]:
    """Indices of the sizes that do not repeat the text too often; or of the largest that so much text is worth."""
    largest = next(
        (index for index, size in enumerate(sizes) if size >= LARGEST_SHARE * unique), len(sizes) - 1
    )
    seldom = [index for index in range(largest + 1) if bought[index] <= enough_tokens(unique)]
    return seldom or [largest]


def enough_tokens(unique: int) -> float:
    """Tokens that are enough for a text of ``unique`` ones.

    >>> enough_tokens(1000)
    7000.0
    """
    return MOST_EPOCHS * unique


def default_dropout(epochs: float) -> float:
    """None while text is fresh; 0.03 an epoch from the fourth on, 0.3 at most.

    >>> [default_dropout(epochs) for epochs in (1, 3.9, 7, 20)]
    [0.0, 0.0, 0.21, 0.3]
    """
    return 0.0 if epochs < 4 else round(min(0.3, 0.03 * epochs), 3)


def default_batch_tokens(context: int, tokens: int | None) -> int:
    """Tokens a step: the power of two next to 1.5 sqrt(tokens of the whole run), between 1,024 and 2^19.

    >>> [default_batch_tokens(256, tokens) for tokens in (500_000, 2_000_000, 10_000_000, 1_000_000_000)]
    [1024, 2048, 4096, 65536]
    """
    wanted = 2048 if tokens is None else 2 ** round(math.log2(1.5 * math.sqrt(tokens)))
    return max(context, min(max(wanted, 1024), 2**19))


def with_rate(optim: OptimConfig, *, width: int, batch_tokens: int, multiplier: float = 1.0) -> OptimConfig:
    """The optimiser with its learning rate: what was given, or the rule's, times what a check found."""
    if optim.lr is not None:
        return optim
    rule = default_lr(optim.optimizer, width=width, batch_tokens=batch_tokens)
    return optim.replace(lr=multiplier * rule)


def with_row_rates(optim: OptimConfig) -> OptimConfig:
    """Rates of the embedding and the head for next-token runs with Muon, unless the user gave them.

    AdamW moves a row by about its rate a step, whatever the gradient; in the hundreds of steps of a short run, rows that
    begin near zero get nowhere at the rate that suits the matrices.

    >>> with_row_rates(OptimConfig()).embedding_lr, with_row_rates(OptimConfig(embedding_lr=1.0)).embedding_lr
    (8.0, 1.0)
    """
    if optim.optimizer != "muon":
        return optim
    return optim.replace(
        **{key: rate for key, rate in ROW_RATES.items() if key not in optim.model_fields_set}
    )


def default_micro_batch(batch_tokens: int, context: int, device: torch.device) -> int:
    """Sequences held at once: on a CPU the largest equal part of the batch that its caches like."""
    sequences = max(1, round(batch_tokens / context))
    if device.type != "cpu":
        return sequences
    limit = max(1, MICRO_BATCH_TOKENS // context)
    return max(part for part in range(1, min(sequences, limit) + 1) if sequences % part == 0)
