"""Points: what a law is fitted to. Parameters N, tokens D and the loss reached, one row a finished run.

Checked once here, so that no fit has to: every figure finite and above zero, enough points for the law's constants.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from steepest.errors import DataError
from steepest.scaling.laws import FLOPS, Array, effective_tokens

LEAST_POINTS = 4  # below which not even the weak prior makes a law of them
LEAST_SIZES = 2


@dataclass(frozen=True)
class Points:
    """Finished runs as arrays of one length; make them with `Points.of`, which checks.

    Attributes:
        n: parameters, the head included and the input embedding not.
        d: tokens trained on, repeats included.
        loss: loss reached, in any one unit.
        unique: different tokens there were, if runs repeat them; none: no repeats.
        names: what to call each row in messages.
    """

    n: Array
    d: Array
    loss: Array
    unique: Array | None
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, n: ArrayLike, d: ArrayLike, loss: ArrayLike, *, unique: ArrayLike | None = None,
        names: Sequence[str] = (),
    ) -> "Points":  # fmt: skip
        """Check and keep: `DataError` names the first row that cannot be meant.

        >>> points = Points.of([1e6, 2e6], [2e7, 4e7], [4.0, 3.7])
        >>> points.compute.tolist()
        [120000000000000.0, 480000000000000.0]
        """
        length = np.atleast_1d(np.asarray(n)).size
        names = tuple(names) or tuple(f"row {i + 1}" for i in range(length))
        some = None if unique is None else _checked(unique, "unique tokens", length, names)
        return cls(
            _checked(n, "parameters", length, names), _checked(d, "tokens", length, names),
            _checked(loss, "loss", length, names), some, names,
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self.n.size)

    @cached_property
    def compute(self) -> Array:
        """6 N D, floating-point operations."""
        return np.asarray(FLOPS * self.n * self.d)

    @cached_property
    def fresh(self) -> Array:
        """D_eff: fresh tokens that D is worth (`effective_tokens` with the frozen R)."""
        return effective_tokens(self.d, self.unique)

    @cached_property
    def ratio(self) -> Array:
        """Tokens a parameter."""
        return np.asarray(self.d / self.n)

    def take(self, rows: ArrayLike) -> "Points":
        """Some of the rows, by index or mask."""
        at = np.arange(len(self))[np.asarray(rows)]
        unique = None if self.unique is None else self.unique[at]
        return Points(self.n[at], self.d[at], self.loss[at], unique, tuple(self.names[i] for i in at))

    def need(self, count: int = LEAST_POINTS, sizes: int = LEAST_SIZES) -> "Points":
        """These points, or a `DataError` that says what would be enough.

        >>> Points.of([1e6, 2e6], [2e7, 4e7], [4.0, 3.7]).need()
        Traceback (most recent call last):
        ...
        steepest.errors.DataError: this law needs at least 4 runs of at least 2 sizes; got 2 runs of 2 sizes: ...
        """
        have = len(np.unique(self.n))
        if len(self) < count or have < sizes:
            more = max(count - len(self), sizes - have)
            raise DataError(
                f"this law needs at least {count} runs of at least {sizes} sizes; got {len(self)} "
                f"run{'s' * (len(self) != 1)} of {have} size{'s' * (have != 1)}: add {more} run{'s' * (more != 1)}"
                + (" of another size" if have < sizes else "")
            )
        return self


def join(parts: Iterable[Points]) -> Points:
    """Several tables as one."""
    parts = list(parts)
    unique = None
    if any(part.unique is not None for part in parts):
        unique = np.concatenate([part.d if part.unique is None else part.unique for part in parts])
    return Points(
        np.concatenate([part.n for part in parts]),
        np.concatenate([part.d for part in parts]),
        np.concatenate([part.loss for part in parts]),
        unique,
        tuple(name for part in parts for name in part.names),
    )


def _checked(given: ArrayLike, told: str, length: int, names: Sequence[str]) -> Array:
    values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    if told == "unique tokens" and values.size == 1:
        values = np.repeat(values, length)
    if values.shape != (length,):
        raise DataError(
            f"a law needs as many values of {told} as of parameters; got {values.size} and {length}"
        )
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        more = f" (and {wrong.sum() - 1} more rows)" if wrong.sum() > 1 else ""
        raise DataError(
            f"{names[at]}: {told} is {values[at]:g}{more}; every figure of a law's points is above zero: "
            "correct the row or leave it out"
        )
    return values
