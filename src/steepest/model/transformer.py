"""The trunk: a residual transformer that maps token ids to hidden states.

    h_0 = embedding[ids]
    h   = h + attention(norm(h));   h = h + mlp(norm(h))      a block, ``depth`` of them
    out = norm(h)

Pre-normalised blocks, rotary positions, grouped queries with QK normalisation, SwiGLU, no biases: exactly what a
stock ``Qwen3ForCausalLM`` computes, so that anyone can load it. Heads and losses belong to the objective.

Two switches, apart from each other. ``coupling`` says what is computed: "residual", as above, or "reversible", two
streams (x, y) -> (y, x + f(y)) over the same halves f. ``backward`` says how it is differentiated, always to the
same gradient: "store" keeps every activation; "recompute" (residual) keeps the first blocks' inputs only;
"invert" (reversible) keeps nothing a layer.

Shapes: B sequences, T positions, D width.

Sources: A. Vaswani et al., https://arxiv.org/abs/1706.03762; K. He et al., residuals,
https://arxiv.org/abs/1512.03385; A. Yang et al., "Qwen3", https://arxiv.org/abs/2505.09388.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.config import RoomConfig, build
from steepest.errors import ConfigError
from steepest.memory.activation_checkpointing import run_layers
from steepest.memory.reversible import Grid, reversible
from steepest.model.attention import Attention
from steepest.model.cache import KeysAndValues, KeyValueCache
from steepest.model.initial import initialise
from steepest.model.norm import RMSNorm, compute_dtype
from steepest.model.rotary import Rotation, rotation_at
from steepest.model.swiglu import SwiGLU

Backward = Literal["store", "recompute", "invert"]
BACKWARDS: dict[str, tuple[Backward, ...]] = {
    "residual": ("store", "recompute"),
    "reversible": ("invert", "store"),
}  # by coupling, the default first


def _default_width(known: dict[str, Any]) -> int:
    return 64 * max(1, int(known.get("depth", 1)))


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
    depth: int = Field(4, ge=0, description="blocks; without any, a token is its vector")
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
    coupling: Literal["residual", "reversible"] = Field(
        "residual", description="reversible: two streams, no activations held, one more forward pass a step"
    )

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
        cache: KeysAndValues | None = None,
        block: int = 0,
    ) -> Tensor:
        """Map the residual stream (B, T, D) to the next block's."""
        hidden_BTD = hidden_BTD + self.attend(
            hidden_BTD, rotation, mask=mask, plain=plain, cache=cache, block=block
        )
        return hidden_BTD + self.feed(hidden_BTD, plain=plain)

    def attend(
        self,
        hidden_BTD: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        plain: bool = False,
        cache: KeysAndValues | None = None,
        block: int = 0,
    ) -> Tensor:
        """What the attention half adds to a stream (B, T, D)."""
        return self._drop(
            self.attention(
                self.attention_norm(hidden_BTD, plain=plain), rotation, mask=mask, plain=plain, cache=cache, block=block
            )
        )  # fmt: skip

    def feed(self, hidden_BTD: Tensor, *, plain: bool = False) -> Tensor:
        """What the feed-forward half adds to a stream (B, T, D)."""
        return self._drop(self.mlp(self.mlp_norm(hidden_BTD, plain=plain), plain=plain))

    def halves(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Parameters of the two halves."""
        return (
            (*self.attention_norm.parameters(), *self.attention.parameters()),
            (*self.mlp_norm.parameters(), *self.mlp.parameters()),
        )

    def _drop(self, added_BTD: Tensor) -> Tensor:
        return F.dropout(added_BTD, self.dropout, self.training) if self.dropout else added_BTD


class Transformer(nn.Module):
    """Token ids (B, T) to hidden states (B, T, D), after the last norm.

    Args:
        config: its shape.
        generator: draws the initial weights; torch's own if ``None``.
        backward: see ``set_backward``.
        recompute_blocks: see ``set_backward``.

    >>> trunk = Transformer(TransformerConfig(vocab_size=100, depth=1, width=32), torch.Generator().manual_seed(0))
    >>> trunk(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 32])
    """

    def __init__(
        self,
        config: TransformerConfig,
        generator: torch.Generator | None = None,
        *,
        backward: Backward | None = None,
        recompute_blocks: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.compiled = False
        self.embedding = nn.Embedding(
            config.vocab_size, config.width, _weight=torch.empty(config.vocab_size, config.width)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.grid = Grid() if config.coupling == "reversible" else None
        self.set_backward(backward, recompute_blocks)
        initialise(self.named_parameters(), tied=config.tie_embeddings, generator=generator)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        mask: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KeysAndValues | None = None,
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
        use = {"rotation": rotation, "mask": mask, "plain": plain, "cache": cache}
        hidden_BTD = self._run_blocks(hidden_BTD, use, hold=plain or cache is not None)
        if cache is not None:
            cache.advance(length)
        out_BTD: Tensor = self.norm(hidden_BTD, plain=plain)
        return out_BTD

    def set_backward(self, backward: Backward | None = None, recompute_blocks: int | None = None) -> None:
        """Choose how the gradient is made; its value stays the same.

        Args:
            backward: "store", "recompute" or "invert"; if ``None``, "recompute" where ``recompute_blocks`` is
                above 0, otherwise what the coupling does by default (residual: "store", reversible: "invert").
            recompute_blocks: how many blocks "recompute" computes again, the first ones; all if ``None``.

        Raises:
            ConfigError: if the coupling does not support it, or there are not as many blocks.

        >>> Transformer(TransformerConfig(depth=2, width=32)).set_backward("invert")
        Traceback (most recent call last):
        ...
        steepest.errors.ConfigError: backward "invert" is not for coupling "residual", which has "store" and ...
        """
        coupling, depth = self.config.coupling, self.config.depth
        known = BACKWARDS[coupling]
        if backward is None:
            backward = "recompute" if recompute_blocks else known[0]
        if backward not in known:
            raise ConfigError(
                f'backward "{backward}" is not for coupling "{coupling}", which has "{known[0]}" and "{known[1]}"'
            )
        if recompute_blocks is None:
            recompute_blocks = depth if backward == "recompute" else 0
        if not 0 <= recompute_blocks <= depth:
            raise ConfigError(f"recompute_blocks must be 0 to {depth}, the depth; got {recompute_blocks}")
        if recompute_blocks and backward != "recompute":
            raise ConfigError(
                f'recompute_blocks is {recompute_blocks}, but backward "{backward}" recomputes none: leave it out'
            )
        self.backward: Backward = backward
        self.recompute_blocks = recompute_blocks

    def compile_blocks(self) -> None:
        """Compile every block (its two halves, if reversible) with ``torch.compile``, at their first use."""
        for block in self.blocks:
            assert isinstance(block, Block)
            if self.config.coupling == "reversible":
                block.attend = torch.compile(block.attend)  # type: ignore[method-assign]
                block.feed = torch.compile(block.feed)  # type: ignore[method-assign]
            else:
                block.compile()
        self.compiled = True

    def _run_blocks(self, hidden_BTD: Tensor, use: dict[str, Any], *, hold: bool) -> Tensor:
        """Apply the blocks with arguments ``use``; ``hold``: keep activations, whatever ``backward`` says."""
        random = self.training and self.config.dropout > 0
        if self.grid is None:
            layers = [partial(block, block=index, **use) for index, block in enumerate(self.blocks)]
            recompute = 0 if hold or not torch.is_grad_enabled() else self.recompute_blocks
            return run_layers(layers, hidden_BTD, recompute=recompute, random=random)
        halves: list[partial[Tensor]] = []
        parameters: list[Sequence[Tensor]] = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            halves += [partial(block.attend, block=index, **use), partial(block.feed, plain=use["plain"])]
            parameters += block.halves()
        return reversible(
            halves, hidden_BTD, grid=self.grid, parameters=parameters, random=random, same_graph=self.compiled,
            invert=self.backward == "invert" and not hold,
        )  # fmt: skip

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
