r"""Skip a step that would do harm: its loss or gradient norm is not finite, or far above its own past.

A value :math:`x` is an outlier when :math:`x > \bar x + k\,\max(\sigma, 0.02\,\max(|\bar x|, 1))`, with mean and
standard deviation over the last ``window`` accepted steps. Only the upper side counts: a sudden fall is good news. Skipped
values stay out of the window, so that a burst does not raise its own bar. Losses are compared as they are;
gradient norms by their logarithm, because they vary by factors: a norm three times the usual is daily business,
a loss three times the usual is not. Where the data are known by heart, with losses near 0, norms vary by any factor
and none is an outlier.

Source: the skip-step optimiser of OLMo (https://arxiv.org/abs/2501.00656), with mean and deviation of 128 steps
and 6 sigmas; one-sided, with the floor under sigma and the logarithm added here.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from steepest.errors import TrainingError

Verdict = Literal["ok", "non-finite", "outlier"]

_FLOOR = 0.02  # sigma is at least this share of the mean: a history that hardly moves must not trip on noise
_BY_HEART = 0.05  # nats per target, below which norms tell nothing


class SpikeGuard:
    """Judges each step before its update is applied.

    Args:
        window: how many accepted steps mean and deviation cover.
        sigmas: how many deviations above the mean are too many.
        limit: this many skipped steps in a row end the run with a `TrainingError`.
        minimum: steps to see before anything finite can be an outlier.

    >>> guard = SpikeGuard(minimum=4)
    >>> [guard.check(loss, 1.0) for loss in (2.1, 2.0, 1.9, 2.0, 9.0, float("nan"), 2.0)]
    ['ok', 'ok', 'ok', 'ok', 'outlier', 'non-finite', 'ok']
    """

    def __init__(self, window: int = 128, sigmas: float = 6.0, limit: int = 10, minimum: int = 32) -> None:
        self.sigmas, self.limit, self.minimum = sigmas, limit, min(minimum, window)
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)  # logarithms
        self._step = 0
        self._skipped = 0

    def check(self, loss: float, grad_norm: float, step: int | None = None) -> Verdict:
        """Say whether this step may be applied; ``step`` (by default the number of checks) is for the error."""
        self._step = self._step + 1 if step is None else step
        verdict = self._judge(loss, grad_norm)
        if verdict == "ok":
            self._skipped = 0
            self._losses.append(loss)
            self._norms.append(_log(grad_norm))
            return verdict
        self._skipped += 1
        if self._skipped >= self.limit:
            raise TrainingError(self._explain(verdict, loss, grad_norm))
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """Everything the next verdict depends on, as JSON numbers."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "step": self._step,
            "skipped": self._skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._losses = deque(state["losses"], maxlen=self._losses.maxlen)
        self._norms = deque(state["norms"], maxlen=self._norms.maxlen)
        self._step, self._skipped = int(state["step"]), int(state["skipped"])

    def _judge(self, loss: float, grad_norm: float) -> Verdict:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "non-finite"
        if len(self._losses) < self.minimum:
            return "ok"
        if loss > self._bound(self._losses, floor=_FLOOR):
            return "outlier"
        by_heart = math.fsum(self._losses) < _BY_HEART * len(self._losses)
        return "outlier" if not by_heart and _log(grad_norm) > self._bound(self._norms) else "ok"

    def _bound(self, history: deque[float], floor: float = 0.0) -> float:
        mean = math.fsum(history) / len(history)
        deviation = math.hypot(*[value - mean for value in history]) / math.sqrt(len(history) - 1)
        # In logarithms the floor is absolute: a tenth of a factor e.
        least = floor * max(abs(mean), 1.0) if floor else 0.1
        return mean + self.sigmas * max(deviation, least)

    def _explain(self, verdict: Verdict, loss: float, grad_norm: float) -> str:
        found = f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
        if self._losses:
            usual = math.fsum(self._losses) / len(self._losses)
            usual_norm = math.exp(math.fsum(self._norms) / len(self._norms))
            found += f" (before: {usual:.4g} and {usual_norm:.4g})"
        kind = "was not finite" if verdict == "non-finite" else "was an outlier"
        return (
            f"step {self._step} {kind} and so were others: {self._skipped} steps skipped in a row; {found}. "
            "Go back to an earlier checkpoint and lower optim.lr, lengthen optim.warmup or lower optim.clip; "
            "if it happens again at the same step, look at the data there"
        )


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))
