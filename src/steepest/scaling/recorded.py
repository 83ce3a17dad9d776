"""A fitted law as JSON in a plan: one law to draw a line with, and its value for any run.

    powers    E + A / N^alpha + B / D^beta                                          the middle of a `BayesLaw`
    early     scale * exp(k - a x - b t - c x t),  x = ln(N / n0),  t = ln(D / d0)      the middle of an `EarlyLaw`

Its terms alone mean nothing, they hang together.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from steepest.scaling.bayes import BayesLaw
from steepest.scaling.early import EarlyLaw, as_fresh

POWERS = ("E", "A", "alpha", "B", "beta")
EARLY = ("scale", "k", "a", "b", "c", "n0", "d0")


def record_of(law: BayesLaw | EarlyLaw, unit: float = 1.0) -> dict[str, Any]:
    """The middle of a law, its losses times ``unit``."""
    if isinstance(law, EarlyLaw):
        k, a, b = np.median(law.coefficients, axis=1).tolist()
        return {"form": "early", "scale": unit * law.scale, "k": k, "a": a, "b": b,
                "c": float(np.median(law.together)), "n0": law.n0, "d0": law.d0}  # fmt: skip
    middle = law.mean_law().at(1.0, 1.0)
    return {"form": "powers", "E": unit * middle.floor, "A": unit * middle.size_term, "alpha": middle.alpha,
            "B": unit * middle.data_term, "beta": middle.beta}  # fmt: skip


def value_of(record: Mapping[str, Any], n: float, d: float, unique: float | None = None) -> float | None:
    """The loss that a recorded law says of N parameters and D tokens; ``None`` where it is not whole.

    Args:
        unique: different tokens that there are; what repeats are worth is as the planner's laws have it.

    >>> value_of({"E": 1.0, "A": 2.0, "alpha": 0.5, "B": 3.0, "beta": 1.0}, 4.0, 3.0)
    3.0
    >>> value_of({"E": 1.0}, 4.0, 3.0)
    """
    names = EARLY if record.get("form") == "early" else POWERS
    found = [record.get(name) for name in names]
    if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in found):
        return None
    with np.errstate(all="ignore"):
        n, d = map(float, as_fresh(n, d, unique))
        if names is POWERS:
            floor, a, alpha, b, beta = map(float, found)  # type: ignore[arg-type]
            value = float(floor + a * np.float64(n) ** -alpha + b * np.float64(d) ** -beta)
        else:
            scale, k, a, b, c, n0, d0 = map(float, found)  # type: ignore[arg-type]
            x, t = np.log(n / n0), np.log(d / d0)
            value = float(scale * np.exp(k - a * x - b * t - c * x * t))
    return value if np.isfinite(value) else None
