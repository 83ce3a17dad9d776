r"""How changing one thing affects everything else: every output's derivative by every input token.

.. math::
    S_{ts} = \lVert e_s \rVert \, \lVert \partial o_t / \partial e_s \rVert

with :math:`e_s` the embedding of token s and :math:`o_t` an output at position t, such as the log-probability of the token
that comes next. It bounds, to first order, how much the output changes if the token's embedding is changed by its
own length; for a log-probability it is in nats. Under a causal mask S is zero above the diagonal, exactly: the future
changes nothing.

All rows need T gradients of T scalars. They come from one backward pass over T copies of the text, of which copy t
contributes the output at t only; copies are taken ``rows`` at a time.

Shapes: T positions, D width, K copies, V vocabulary. Source: K. Simonyan et al., https://arxiv.org/abs/1312.6034.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from steepest.model import Transformer
from steepest.objectives import NextToken

Outputs = Callable[[Tensor], Tensor]  # hidden states (K, T, D) to one number a position (K, T)
ROWS = 32


def token_sensitivity(trunk: Transformer, ids_T: Tensor, outputs: Outputs, *, rows: int = ROWS) -> Tensor:
    """``S`` (T, T): row t says how the output at position t depends on each token.

    Args:
        trunk: in whatever mode it is; its dropout is off meanwhile.
        ids_T: the text.
        outputs: what is asked about, from the hidden states.
        rows: outputs differentiated at once.

    >>> from steepest.model import TransformerConfig
    >>> trunk = Transformer(TransformerConfig(vocab_size=9, depth=1, width=32), torch.Generator().manual_seed(0))
    >>> s = token_sensitivity(trunk, torch.tensor([3, 1, 4]), lambda hidden_KTD: hidden_KTD[..., 0])
    >>> s.shape, bool((s.triu(1) == 0).all())
    (torch.Size([3, 3]), True)
    """
    length = len(ids_T)
    held: list[Tensor] = []

    def capture(module: nn.Module, args: object, embedded_KTD: Tensor) -> Tensor:
        held[:] = [embedded_KTD.detach().requires_grad_()]
        return held[0]

    backward, recompute, was_training = trunk.backward, trunk.recompute_blocks, trunk.training
    trunk.eval()
    trunk.set_backward("store")
    handle = trunk.embedding.register_forward_hook(capture)
    try:
        parts = []
        for first in range(0, length, rows):
            positions_K = torch.arange(first, min(first + rows, length), device=ids_T.device)
            with torch.enable_grad():
                outputs_KT = outputs(trunk(ids_T.expand(len(positions_K), -1)))
                chosen = outputs_KT[torch.arange(len(positions_K), device=ids_T.device), positions_K]
                (gradient_KTD,) = torch.autograd.grad(chosen.sum(), held[0])
            parts.append(gradient_KTD.norm(dim=-1) * held[0].detach().norm(dim=-1))
        return torch.cat(parts)
    finally:
        handle.remove()
        trunk.set_backward(backward, recompute)
        trunk.train(was_training)


def next_token_outputs(objective: NextToken, ids_T: Tensor) -> Outputs:
    """Log-probability (nats) of the token that comes next; after the last, of the likeliest one."""

    def outputs(hidden_KTD: Tensor) -> Tensor:
        logits_KTV = objective.head(hidden_KTD)
        targets_KT = ids_T.roll(-1).expand(hidden_KTD.shape[:2]).clone()
        targets_KT[:, -1] = logits_KTV[:, -1].argmax(-1)
        picked: Tensor = logits_KTV.log_softmax(-1).gather(-1, targets_KT[..., None])[..., 0]
        return picked

    return outputs
