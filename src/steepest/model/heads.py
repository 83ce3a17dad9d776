"""Heads: what turns hidden states into what an objective needs.

    logits_NV = hidden_ND @ weight_VD.T

Tied, the weight is the embedding itself: a token's row says both what it means and how it is recognised.

Source: O. Press and L. Wolf, "Using the Output Embedding to Improve Language Models",
https://arxiv.org/abs/1608.05859.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.model.initial import initialise
from steepest.model.transformer import Transformer


class VocabularyHead(nn.Module):
    """One logit a token of the vocabulary; ``weight`` (V, D) is the trunk's embedding if its config ties them.

    A tied head has no parameter of its own, so that nothing is counted, stepped or stored twice.

    >>> from steepest.model import TransformerConfig
    >>> trunk = Transformer(TransformerConfig(vocab_size=50, depth=1, width=32, tie_embeddings=True))
    >>> head = VocabularyHead(trunk)
    >>> head.weight is trunk.embedding.weight, len(list(head.parameters()))
    (True, 0)
    >>> head(torch.zeros(2, 32)).shape
    torch.Size([2, 50])
    """

    def __init__(self, trunk: Transformer, generator: torch.Generator | None = None) -> None:
        super().__init__()
        config = trunk.config
        # In a tuple, so that the embedding is not registered as a part of the head too.
        self._tied = (trunk.embedding,) if config.tie_embeddings else ()
        if not self._tied:
            self.matrix = nn.Parameter(torch.empty(config.vocab_size, config.width))
            initialise([("head.matrix", self.matrix)], tied=False, generator=generator)

    @property
    def weight(self) -> Tensor:
        """One row a token, (V, D)."""
        return self._tied[0].weight if self._tied else self.matrix

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states (..., D), as (..., V)."""
        return F.linear(hidden, self.weight)

    def roles(self) -> dict[str, str]:
        """Role of each of its own parameters."""
        return {name: "head" for name, _ in self.named_parameters()}
