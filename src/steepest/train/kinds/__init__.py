"""Kinds of runs: what differs between objectives. A new kind is a file here, named in ``KINDS``."""

from steepest.errors import ConfigError
from steepest.train.kinds.base import Kind
from steepest.train.kinds.causal_graph import CausalGraphKind
from steepest.train.kinds.classification import ClassificationKind
from steepest.train.kinds.contrastive import ContrastiveKind
from steepest.train.kinds.next_token import NextTokenKind
from steepest.train.run import RunConfig

KINDS: dict[str, type[Kind]] = {
    "next-token": NextTokenKind,
    "contrastive": ContrastiveKind,
    "classification": ClassificationKind,
    "causal-graph": CausalGraphKind,
}


def kind_of(config: RunConfig) -> type[Kind]:
    """The kind that a config's objective names."""
    kind = config.objective.kind
    if kind not in KINDS:
        raise ConfigError(f'objective "{kind}" cannot be trained yet; these can: {", ".join(KINDS)}')
    return KINDS[kind]


__all__ = [
    "KINDS",
    "CausalGraphKind",
    "ClassificationKind",
    "ContrastiveKind",
    "Kind",
    "NextTokenKind",
    "kind_of",
]
