"""Every initial value of the model, in one place.

    gains                     1
    out, down                 0              every block starts as the identity: depth cannot spoil the start
    qkv, gate_up              N(0, s^2),     s = 0.7 / sqrt(width): outputs of order one for normalised inputs
    embedding, untied         N(0, 1)
    head, untied              0              the first loss is exactly log(vocabulary)
    embedding and head, tied  N(0, s^2),     s small enough that the first loss is log(vocabulary) within 1%

Tied, a token's own logit at the start is e.e/|e| * sqrt(D) = s D (the blocks add nothing yet, and the last norm
makes the hidden state e/s), while the others are noise of variance s^2 D. That own logit ``a = s D`` raises the
loss by at most log(1 + (e^a - 1)/V), the noise by s^2 D / 2; s keeps the sum below half a percent of log V.

Sources: zero output projections, A. Goyal et al., https://arxiv.org/abs/1706.02677, and H. Zhang et al., "Fixup",
https://arxiv.org/abs/1901.09321.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MATRIX_GAIN = 0.7
TIED_STD = 0.02  # at most
START_TOLERANCE = 0.005  # of log(vocabulary)


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A bias-free linear layer whose weight is not yet set: it draws nothing from torch's generator.

    >>> linear(3, 2).weight.shape
    torch.Size([2, 3])
    """
    layer = nn.Linear(n_in, n_out, bias=False, device="meta")
    layer.weight = nn.Parameter(torch.empty(n_out, n_in))
    return layer


@torch.no_grad()
def initialise(
    named_parameters: Iterable[tuple[str, Tensor]], *, tied: bool, generator: torch.Generator | None
) -> None:
    """Fill parameters in place, by the last parts of their names; see the table at the top of this file.

    Args:
        named_parameters: in a fixed order, for each draws from ``generator`` in turn.
        tied: whether the embedding is also the vocabulary head.
        generator: on the parameters' device; torch's own if ``None``.

    >>> layer = linear(3, 3)
    >>> initialise([("mlp.down.weight", layer.weight)], tied=False, generator=None)
    >>> layer.weight.abs().max().item()
    0.0
    """
    for name, parameter in named_parameters:
        owner = name.split(".")[-2] if "." in name else name
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        elif owner in ("out", "down", "head"):
            parameter.zero_()
        elif owner in ("qkv", "gate_up"):
            parameter.normal_(0.0, MATRIX_GAIN * parameter.shape[1] ** -0.5, generator=generator)
        elif owner == "embedding":
            parameter.normal_(0.0, tied_std(*parameter.shape) if tied else 1.0, generator=generator)
        else:
            raise ValueError(f'no rule for the initial value of "{name}" {tuple(parameter.shape)}')


def tied_std(vocab_size: int, width: int) -> float:
    """Standard deviation of a tied embedding, see above.

    >>> round(tied_std(50_000, 384), 3), round(tied_std(65, 384), 4)
    (0.012, 0.0014)
    """
    excess = START_TOLERANCE * math.log(max(vocab_size, 2))
    own = math.log1p(vocab_size * math.expm1(excess / 2)) / width
    noise = math.sqrt(excess / width)
    return min(TIED_STD, own, noise)
