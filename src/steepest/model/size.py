"""Parameters and arithmetic of a model, from its config alone: nothing is built, nothing is run.

    matrices of a block    D (H + 2G) E  +  H E D  +  3 D M          (qkv, out, gate and up and down)
    vectors                2 D + 2 E  a block,  D at the end
    vocabulary             V D for the embedding, V D for the head (once if tied)

    FLOPs per token        forward    2 (matrices + head)  +  4 H E K  a block
                           training   three times that: a product's backward is two products of the same size

One multiply-add counts as two. K is the mean number of keys that a query sees: (T + 1) / 2 for a causal text of
T tokens; T if ``causal=False``, which is what kernels that compute the whole T x T square do, and what torch's
flop counter counts for the eager formula. Looking up an embedding is free; norms, softmax, gates and rotations
(1 or 2 % of the whole) and anything computed twice are not counted: this is the arithmetic that training needs,
so FLOPs per token times tokens per second over the machine's peak is the honest utilisation.

Sources: J. Kaplan et al., https://arxiv.org/abs/2001.08361; A. Chowdhery et al., "PaLM", appendix B,
https://arxiv.org/abs/2204.02311.
"""

from steepest.model.transformer import TransformerConfig


def n_parameters(config: TransformerConfig) -> int:
    """All parameters of trunk and vocabulary head.

    >>> n_parameters(TransformerConfig(vocab_size=10, depth=1, width=32, heads=1, head_dim=32, mlp_width=64))
    11040
    """
    embedding = config.vocab_size * config.width
    vectors = config.depth * (2 * config.width + 2 * config.head_dim) + config.width
    return n_matrix_parameters(config) + (0 if config.tie_embeddings else embedding) + vectors


def n_matrix_parameters(config: TransformerConfig) -> int:
    """Parameters that multiply: the matrices of all blocks and the vocabulary head, not the input embedding.

    >>> n_matrix_parameters(TransformerConfig(vocab_size=10, depth=1, width=32, heads=1, head_dim=32, mlp_width=64))
    10560
    """
    return config.depth * _block_matrices(config) + config.vocab_size * config.width


def flops_per_token(
    config: TransformerConfig, *, training: bool = True, context: int | None = None, causal: bool = True
) -> float:
    """Floating-point operations for one token, with its share of attention.

    Args:
        config: the model.
        training: forward and backward; else forward only.
        context: tokens in the sequence, if not the config's.
        causal: count only the keys a query may see; else the whole square.

    >>> config = TransformerConfig(vocab_size=10, depth=1, width=32, heads=1, head_dim=32, mlp_width=64, context=3)
    >>> flops_per_token(config, training=False)  # 2 * 10560 + 4 * 32 * 2
    21376.0
    """
    length = config.context if context is None else context
    keys = (length + 1) / 2 if causal else float(length)
    attention = 4.0 * config.heads * config.head_dim * keys * config.depth
    forward = 2.0 * n_matrix_parameters(config) + attention
    return 3 * forward if training else forward


def _block_matrices(config: TransformerConfig) -> int:
    inner = config.heads * config.head_dim
    qkv = config.width * (inner + 2 * config.kv_heads * config.head_dim)
    return qkv + inner * config.width + 3 * config.width * config.mlp_width
