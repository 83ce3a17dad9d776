"""The trunk: a residual transformer that maps token ids to hidden states.

    h_0 = embedding[ids]
    h   = h + attention(norm(h));   h = h + mlp(norm(h))      a block, ``depth`` of them
    out = norm(h)

Pre-normalised blocks, rotary positions, grouped queries with QK normalisation, SwiGLU, no biases: exactly what a
stock ``Qwen3ForCausalLM`` computes, so that anyone can load it. Heads and losses belong to the objective.

Shapes: B sequences, T positions, D width.

Sources: A. Vaswani et al., https://arxiv.org/abs/1706.03762; K. He et al., residuals,
https://arxiv.org/abs/1512.03385; A. Yang et al., "Qwen3", https://arxiv.org/abs/2505.09388.
"""

from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.config import RoomConfig, build
from steepest.errors import ConfigError
from steepest.model.attention import Attention
from steepest.model.cache import KeyValueCache
from steepest.model.initial import initialise
from steepest.model.norm import RMSNorm, compute_dtype
from steepest.model.rotary import Rotation, rotation_at
from steepest.model.swiglu import SwiGLU


def _default_width(known: dict[str, Any]) -> int:
    return 64 * int(known.get("depth", 1))


def _default_head_dim(known: dict[str, Any]) -> int:
    width = int(known.get("width", 64))
    return 64 if width % 64 == 0 and width >= 128 else 32


def _default_heads(known: dict[str, Any]) -> int:
    return max(1, int(known.get("width", 64)) // int(known.get("head_dim", 64)))


def _default_mlp_width(known: dict[str, Any]) -> int:
    width = int(known.get("width", 64))
    step = 64 if width >= 256 else 32
    return max(step, round(8 * width / 3 / step) * step)


class TransformerConfig(RoomConfig):
    """Shape of the trunk. ``depth`` is the one dial; what is not given follows from it.

    >>> config = TransformerConfig(vocab_size=4096, depth=6)
    >>> config.width, config.head_dim, config.heads, config.kv_heads, config.mlp_width
    (384, 64, 6, 6, 1024)
    """

    vocab_size: int = Field(256, ge=2, description="tokens that exist")
    context: int = Field(256, ge=1, description="positions a sequence may have")
    depth: int = Field(4, ge=1, description="blocks")
    width: int = Field(
        default_factory=_default_width, ge=1, description="of the residual stream; 64 x depth unless given"
    )
    head_dim: int = Field(
        default_factory=_default_head_dim,
        ge=2,
        description="of one attention head, even; 64 unless given (32 below width 128)",
    )
    heads: int = Field(
        default_factory=_default_heads, ge=1, description="query heads; width / head_dim unless given"
    )
    kv_heads: int = Field(
        default_factory=lambda known: known.get("heads", 1),
        ge=1,
        description="key and value heads, a divisor of heads; as many unless given",
    )
    mlp_width: int = Field(
        default_factory=_default_mlp_width,
        ge=1,
        description="of the gated layer; 8/3 width to the nearest 64 unless given (32 below width 256)",
    )
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary angles")
    norm_eps: float = Field(1e-6, gt=0, description="added to the mean square by every RMS norm")
    tie_embeddings: bool = Field(False, description="the vocabulary head is the embedding: fewer parameters")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what each half of a block adds, when training")

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if "heads" not in self.model_fields_set and self.width % self.head_dim:
            raise ValueError(
                f"width {self.width} is not a multiple of head_dim {self.head_dim}: change one, or give heads"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, for rotary positions turn pairs; got {self.head_dim}")
        return self


def config_from_depth(depth: int, *, vocab_size: int, context: int, **fields: Any) -> TransformerConfig:
    """A balanced shape from one number; ``fields`` set any of the rest.

    >>> config_from_depth(2, vocab_size=256, context=128, kv_heads=1).heads
    2
    """
    values = {"depth": depth, "vocab_size": vocab_size, "context": context, **fields}
    return build(TransformerConfig, values, where="model")


class Block(nn.Module):
    """One step of the residual stream: attention, then the feed-forward layer, each on normalised input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(
            config.width, config.heads, config.kv_heads, config.head_dim, config.norm_eps
        )
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp_width)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        plain: bool = False,
        cache: KeyValueCache | None = None,
        block: int = 0,
    ) -> Tensor:
        """Map the residual stream (B, T, D) to the next block's."""
        added_BTD = self.attention(
            self.attention_norm(hidden_BTD, plain=plain), rotation, mask=mask, plain=plain, cache=cache, block=block
        )  # fmt: skip
        hidden_BTD = hidden_BTD + self._drop(added_BTD)
        return hidden_BTD + self._drop(self.mlp(self.mlp_norm(hidden_BTD, plain=plain), plain=plain))

    def _drop(self, added_BTD: Tensor) -> Tensor:
        return F.dropout(added_BTD, self.dropout, self.training) if self.dropout else added_BTD


class Transformer(nn.Module):
    """Token ids (B, T) to hidden states (B, T, D), after the last norm.

    Args:
        config: its shape.
        generator: draws the initial weights; torch's own if ``None``.

    >>> trunk = Transformer(TransformerConfig(vocab_size=100, depth=1, width=32), torch.Generator().manual_seed(0))
    >>> trunk(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(
            config.vocab_size, config.width, _weight=torch.empty(config.vocab_size, config.width)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        initialise(self.named_parameters(), tied=config.tie_embeddings, generator=generator)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        mask: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        plain: bool = False,
    ) -> Tensor:
        """Hidden states of every position.

        Args:
            ids_BT: token ids.
            mask: boolean (B or 1, T, T), true where position i may attend to j; ``None`` is causal.
            positions_BT: rotary positions, (B, T) or (T,); 0, 1, 2 ... (after those in the cache) if ``None``.
            cache: earlier keys and values; ``ids_BT`` are then the next tokens only, and are stored too.
            plain: use differentiable torch operations throughout, for second derivatives and Jacobians;
                otherwise hand-written first derivatives, faster.
        """
        past = 0 if cache is None else len(cache)
        length = ids_BT.shape[1]
        if positions_BT is None:
            if past + length > self.config.context:
                raise ConfigError(
                    f"{past + length} positions are more than the context of {self.config.context}: "
                    "pass shorter sequences, or build the model with a larger context"
                )
            positions_BT = torch.arange(past, past + length, device=ids_BT.device)
        hidden_BTD: Tensor = self.embedding(ids_BT)
        rotation = self.rotation(positions_BT, compute_dtype(hidden_BTD))
        for index, block in enumerate(self.blocks):
            hidden_BTD = block(hidden_BTD, rotation, mask=mask, plain=plain, cache=cache, block=index)
        if cache is not None:
            cache.advance(length)
        out_BTD: Tensor = self.norm(hidden_BTD, plain=plain)
        return out_BTD

    def rotation(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotation:
        """Cosines and sines of some positions' rotary angles, as the blocks take them."""
        return rotation_at(positions, self.config.head_dim, self.config.rope_theta, dtype)

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KeyValueCache:
        """An empty key-value cache that fits this trunk, for its context unless ``capacity`` says less."""
        return KeyValueCache(
            depth=self.config.depth,
            kv_heads=self.config.kv_heads,
            head_dim=self.config.head_dim,
            capacity=capacity or self.config.context,
            batch=batch,
        )

    def roles(self) -> dict[str, str]:
        """Role of every parameter by name: "embedding", "matrix" or "vector" (heads have their own)."""

        def role(name: str, parameter: Tensor) -> str:
            if parameter.ndim == 1:
                return "vector"
            return "embedding" if name.startswith("embedding.") else "matrix"

        return {name: role(name, parameter) for name, parameter in self.named_parameters()}

    def splits(self) -> dict[str, tuple[int, ...]]:
        """Matrices that hold several stacked ones, with their row counts: (q, k, v) and (gate, up)."""
        config = self.config
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        rows = {"qkv": (q, kv, kv), "gate_up": (config.mlp_width, config.mlp_width)}
        names = [name for name, _ in self.named_parameters()]
        return {name: rows[part] for name in names for part in rows if name.endswith(f".{part}.weight")}
