"""The model: a residual transformer from token ids to hidden states, its heads, its size, its use."""

from steepest.model.attention import attention, causal_mask, document_mask
from steepest.model.cache import KeyValueCache
from steepest.model.generate import generate, next_token_probabilities
from steepest.model.heads import VocabularyHead
from steepest.model.size import flops_per_token, n_matrix_parameters, n_parameters
from steepest.model.transformer import Block, Transformer, TransformerConfig, config_from_depth

__all__ = [
    "Block",
    "KeyValueCache",
    "Transformer",
    "TransformerConfig",
    "VocabularyHead",
    "attention",
    "causal_mask",
    "config_from_depth",
    "document_mask",
    "flops_per_token",
    "generate",
    "n_matrix_parameters",
    "n_parameters",
    "next_token_probabilities",
]
