"""Objectives: what a run minimises (a loss) and what it is judged by (a target metric)."""

from steepest.objectives.base import Objective
from steepest.objectives.next_token import NextToken, NextTokenConfig

ObjectiveConfig = NextTokenConfig

__all__ = ["NextToken", "NextTokenConfig", "Objective", "ObjectiveConfig"]
