"""Objectives: what a run minimises (a loss) and what it is judged by (a target metric)."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from steepest.objectives.base import KindConfig, Objective
from steepest.objectives.causal_graph import CausalGraph, CausalGraphConfig
from steepest.objectives.classification import Classification, ClassificationConfig
from steepest.objectives.contrastive import Contrastive, ContrastiveConfig
from steepest.objectives.next_token import NextToken, NextTokenConfig


def _next_token_by_default(value: Any) -> Any:
    return {"kind": "next-token", **value} if isinstance(value, dict) else value


# One table ``[objective]``, told apart by its ``kind``; a new objective is one more member.
ObjectiveConfig = Annotated[
    Annotated[
        NextTokenConfig | ClassificationConfig | ContrastiveConfig | CausalGraphConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_next_token_by_default),
]

__all__ = [
    "Classification",
    "CausalGraph",
    "CausalGraphConfig",
    "ClassificationConfig",
    "Contrastive",
    "ContrastiveConfig",
    "KindConfig",
    "NextToken",
    "NextTokenConfig",
    "Objective",
    "ObjectiveConfig",
]
