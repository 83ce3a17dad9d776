"""Key-value cache: what generation remembers, so that each new token costs one position instead of all.

    step t:  q_t against k_1 ... k_t,  with k and v of earlier positions stored, already normalised and turned

Memory: depth * 2 * kv_heads * head_dim * capacity numbers a sequence, allocated once.

Shapes: B sequences, G key (and value) heads, S stored positions, E head width.
"""

from typing import Protocol

import torch
from torch import Tensor

from steepest.errors import ConfigError


class KeysAndValues(Protocol):
    """What a trunk asks of a cache: the keys and values, block by block, that the queries at hand may see."""

    def __len__(self) -> int:
        """Positions before those at hand."""

    def store(self, block: int, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Take keys and values of the positions at hand; give all that are to be attended to."""

    def advance(self, positions: int) -> None:
        """Every block has stored so many positions."""


class KeyValueCache:
    """Keys and values of every block for up to ``capacity`` positions of ``batch`` sequences.

    Pass it to ``Transformer.forward`` with the next tokens only; it then holds their keys and values too.

    Args:
        depth: number of blocks.
        kv_heads: G.
        head_dim: E.
        capacity: positions it can hold.
        batch: sequences, all of the same length.
        device: where it lives.
        dtype: of the stored numbers; that of the first ones stored, if ``None``.

    >>> cache = KeyValueCache(depth=1, kv_heads=2, head_dim=4, capacity=8)
    >>> keys, values = cache.store(0, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    >>> cache.advance(3)
    >>> keys.shape, len(cache)
    (torch.Size([1, 2, 3, 4]), 3)
    """

    def __init__(
        self,
        *,
        depth: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        batch: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.capacity = capacity
        self._shape = (2, depth, batch, kv_heads, capacity, head_dim)
        self._device = device
        self._stored = torch.empty(self._shape, dtype=dtype, device=device) if dtype else None
        self._length = 0

    def __len__(self) -> int:
        """Positions stored in every block."""
        return self._length

    def store(self, block: int, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Add the next T positions of one block; returns all its keys and values so far, as views."""
        if self._stored is None:
            self._stored = torch.empty(self._shape, dtype=k_BGTE.dtype, device=self._device or k_BGTE.device)
        end = self._length + k_BGTE.shape[2]
        if end > self.capacity:
            raise ConfigError(
                f"the key-value cache holds {self.capacity} positions, {self._length} are taken and "
                f"{k_BGTE.shape[2]} more came: give it a larger capacity, or clear it"
            )
        keys, values = self._stored[0, block], self._stored[1, block]
        keys[:, :, self._length : end] = k_BGTE
        values[:, :, self._length : end] = v_BGTE
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, positions: int) -> None:
        """Count positions that every block has stored."""
        self._length += positions

    def clear(self) -> None:
        """Forget everything; the memory is kept."""
        self._length = 0
