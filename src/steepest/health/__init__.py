"""Health: what flows through a model in training, and what it means, in words.

probe          rms of activations and gradients at named modules
gradient_flow  one backward pass read block by block, role by role
verdict        a run's records -> sentences with figure, layer and remedy
"""

from steepest.health.config import HealthConfig
from steepest.health.gradient_flow import WeightSample, gradient_flow
from steepest.health.history import Habits, Verdict
from steepest.health.probe import Probe, Reading
from steepest.health.verdict import KINDS, Judge, diagnose

__all__ = [
    "KINDS",
    "Habits",
    "HealthConfig",
    "Judge",
    "Probe",
    "Reading",
    "Verdict",
    "WeightSample",
    "diagnose",
    "gradient_flow",
]
