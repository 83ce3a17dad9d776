"""Gradient caching: a loss over a whole batch, the encoder's activations of one chunk at a time.

    1   z_c = encode(chunk c)                       no activations kept, for every chunk
    2   L = loss(z_1, z_2 ...);   g_c = dL/dz_c     the loss sees all embeddings
    3   encode(chunk c) again, with activations;  backward from g_c         for every chunk

By the chain rule the sum over chunks of g_c dz_c/dw is dL/dw, exactly. One more forward pass buys a batch of any
size: what is held is the embeddings, their gradients, and one chunk's activations. Step 3 puts the random
generators back to where they stood at step 1, so that dropout draws the same masks; otherwise the gradient would be
that of another function than the one the loss saw.

Source: L. Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (GradCache),
https://arxiv.org/abs/2101.06983.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steepest.state_dicts import random_state, set_random_state

Encode = Callable[[], Tensor]
Lengths = npt.NDArray[np.int64]


def cached_gradient(
    chunks: Sequence[Encode], loss: Callable[[Tensor], Tensor], *, random: bool = True
) -> Tensor:
    """Add the gradient of ``loss(cat(all chunks' embeddings))`` to ``.grad``; return the loss.

    Args:
        chunks: each encodes its rows, to (rows, D); called twice.
        loss: of all rows together; may have parameters of its own.
        random: whether encoding draws random numbers (dropout), to be drawn again alike.

    >>> weight = torch.tensor([2.0], requires_grad=True)
    >>> parts = [lambda: torch.ones(1, 1) * weight, lambda: torch.ones(2, 1) * weight]
    >>> cached_gradient(parts, lambda z: z.sum() ** 2), weight.grad  # (3w)^2 and 18w
    (tensor(36.), tensor([36.]))
    """
    states = []
    parts = []
    with torch.no_grad():
        for encode in chunks:
            if random:
                states.append(random_state())
            parts.append(encode())
    after = random_state() if random else None
    lengths = [len(part) for part in parts]
    rows_ND = torch.cat(parts).requires_grad_()
    del parts
    value = loss(rows_ND)
    value.backward()  # type: ignore[no-untyped-call]
    gradient_ND = rows_ND.grad if rows_ND.grad is not None else torch.zeros_like(rows_ND)
    del rows_ND
    for index, (encode, part) in enumerate(zip(chunks, torch.split(gradient_ND, lengths), strict=True)):
        if random:
            set_random_state(*states[index])
        with torch.enable_grad():
            torch.autograd.backward(encode(), part)
    if after is not None:
        set_random_state(*after)
    return value.detach()


def length_sorted_chunks(lengths: Lengths, tokens: int) -> list[Lengths]:
    """Rows sorted by length and cut into chunks of at most ``tokens`` tokens, padding counted.

    Every row is in one chunk, and a chunk has at least one row.

    >>> length_sorted_chunks(np.array([5, 1, 2, 4]), tokens=8)
    [array([1, 2]), array([3]), array([0])]
    """
    order = np.argsort(lengths, kind="stable")
    longest = lengths[order].tolist()
    chunks, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * longest[end] > tokens:
            chunks.append(order[start:end])
            start = end
    return chunks
