"""Optimisation: parameter groups, SGD, AdamW and Muon, learning-rate schedules, gradient clipping.

config      what can be set, and the rule for the learning rate
groups      parameters -> groups by role, with weight decay on matrices only
optimizers  groups -> one object that steps, and whose state is keyed by parameter name
muon        momentum, made orthogonal by Newton-Schulz
schedules   step -> share of the learning rate
clipping    the norm of all gradients, bounded
"""

from steepest.optim.clipping import clip_grad_norm_
from steepest.optim.config import OptimConfig, default_lr
from steepest.optim.groups import parameter_groups, roles_by_name
from steepest.optim.muon import Muon, newton_schulz
from steepest.optim.optimizers import Optimizers, build_optimizer
from steepest.optim.schedules import (
    Decision,
    constant,
    cooldown_share,
    cosine,
    linear,
    piecewise,
    step_schedule,
    warmup_stable_decay,
)

__all__ = [
    "Decision",
    "Muon",
    "OptimConfig",
    "Optimizers",
    "build_optimizer",
    "clip_grad_norm_",
    "constant",
    "cooldown_share",
    "cosine",
    "default_lr",
    "linear",
    "newton_schulz",
    "parameter_groups",
    "piecewise",
    "roles_by_name",
    "step_schedule",
    "warmup_stable_decay",
]
