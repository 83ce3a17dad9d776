"""Derivatives beyond the gradient of a loss: Jacobians and their singular values."""

from steepest.autograd.jacobian import (
    Extremes,
    extreme_singular_values,
    jacobian,
    jvp,
    rms_singular_value,
    singular_values,
    vjp,
)

__all__ = [
    "Extremes",
    "extreme_singular_values",
    "jacobian",
    "jvp",
    "rms_singular_value",
    "singular_values",
    "vjp",
]
