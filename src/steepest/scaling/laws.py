r"""Scaling laws: the loss of a model as a function of its parameters N and the tokens D it is trained on.

    Kaplan        L(N, D) = [ (N_c / N)^(alpha_N / alpha_D) + D_c / D ]^alpha_D
    Chinchilla    L(N, D) = E + A / N^alpha + B / D^beta
    Muennighoff   the same at effective counts: passes over the same U tokens are worth less and less
                  D_eff = U + U R (1 - exp(-(D / U - 1) / R))

E is the floor: what no model of this kind can get below. N counts the parameters that multiply, the vocabulary head
included and the input embedding not; D counts tokens, repeats included. The unit of the loss is the table's own
(nats per token, bits per byte): every formula here is linear in it.

A and B are never shown alone. A and alpha are almost collinear (A is the N-term of a model of one parameter, tens of
octaves from any run), so their digits mean nothing. A law is kept as terms at a reference point inside the data:

    L = floor + size_term (N / n0)^-alpha + data_term (D / d0)^-beta

Sources: J. Kaplan et al., https://arxiv.org/abs/2001.08361; J. Hoffmann et al., https://arxiv.org/abs/2203.15556;
T. Besiroglu et al., https://arxiv.org/abs/2404.10102; N. Muennighoff et al., https://arxiv.org/abs/2305.16264.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FLOPS = 6.0  # floating-point operations a parameter and token: 2 forward, 4 backward
REPEATS = 15.0  # R of the formula above: half of a repeated pass's worth is gone after R ln 2 = 10 passes
REPEATS_SPREAD = 0.5  # standard deviation of ln R, from one set to another


@dataclass(frozen=True)
class KaplanLaw:
    """L(N, D) of the first scaling laws, with no floor of its own; defaults are the paper's.

    N counts parameters without any embedding, in nats per token.

    >>> round(float(KaplanLaw()(1e9, 2e10)), 3)
    2.374
    """

    n_c: float = 6.4e13
    d_c: float = 1.8e13
    alpha_n: float = 0.076
    alpha_d: float = 0.103

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Array:
        """Loss at N parameters and D tokens."""
        n, d = _array(n), _array(d)
        return np.asarray(((self.n_c / n) ** (self.alpha_n / self.alpha_d) + self.d_c / d) ** self.alpha_d)


@dataclass(frozen=True)
class ChinchillaLaw:
    """Floor, N-term and D-term, the terms as losses at the reference point (n0, d0).

    >>> law = ChinchillaLaw.published(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    >>> float(law(70e9, 1.4e12).round(3))
    1.974
    """

    floor: float
    size_term: float
    data_term: float
    alpha: float
    beta: float
    n0: float
    d0: float

    @classmethod
    def published(
        cls, e: float, a: float, b: float, alpha: float, beta: float, *, n0: float = 1e9, d0: float = 2e10
    ) -> "ChinchillaLaw":
        """From the constants as papers print them, which carry the rounding of A and B."""
        return cls(e, a * n0**-alpha, b * d0**-beta, alpha, beta, n0, d0)

    def __call__(self, n: ArrayLike, d: ArrayLike) -> Array:
        """Loss at N parameters and D tokens."""
        size = self.size_term * (_array(n) / self.n0) ** -self.alpha
        return np.asarray(self.floor + size + self.data_term * (_array(d) / self.d0) ** -self.beta)

    def at(self, n0: float, d0: float) -> "ChinchillaLaw":
        """The same law, its terms stated at another reference point."""
        size = self.size_term * (n0 / self.n0) ** -self.alpha
        data = self.data_term * (d0 / self.d0) ** -self.beta
        return ChinchillaLaw(self.floor, float(size), float(data), self.alpha, self.beta, n0, d0)

    def optimal(self, compute: float) -> tuple[float, float]:
        r"""N and D of least loss with 6 N D = ``compute``: where :math:`\alpha A N^{-\alpha} = \beta B D^{-\beta}`.

        >>> law = ChinchillaLaw.published(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
        >>> n, d = law.optimal(5.76e23)
        >>> round(n / 1e9), round(d / n)
        (72, 18)
        """
        if not (self.size_term > 0 and self.data_term > 0):
            raise ValueError("a law without an N-term or without a D-term has no optimal ratio")
        pull = self.alpha * self.size_term * self.n0**self.alpha
        push = self.beta * self.data_term * self.d0**self.beta
        log_n = (np.log(pull / push) + self.beta * np.log(compute / FLOPS)) / (self.alpha + self.beta)
        n = float(np.exp(log_n))
        return n, compute / FLOPS / n


KAPLAN = KaplanLaw()
HOFFMANN = ChinchillaLaw.published(1.69, 406.4, 410.7, 0.34, 0.28)
BESIROGLU = ChinchillaLaw.published(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
KAPLAN_COMPUTE_EXPONENT = (
    0.73  # of N against compute in the paper; 0.5 once heads, warm-up and rates are counted
)


def effective_tokens(d: ArrayLike, unique: ArrayLike | None, repeats: ArrayLike = REPEATS) -> Array:
    r"""D_eff: fresh tokens that ``d`` tokens from ``unique`` different ones are worth.

    :math:`U + U R\,(1 - e^{-(D/U - 1)/R})`; below one pass it is D itself. Limits: U (1 + R) however long.

    >>> effective_tokens([50, 100, 400, 1600], 100).round().tolist()
    [50.0, 100.0, 372.0, 1048.0]
    """
    d = _array(d)
    if unique is None:
        return d
    u, r = _array(unique), _array(repeats)
    passes = np.maximum(d / u - 1, 0)
    return np.asarray(np.where(d <= u, d, u + u * r * -np.expm1(-passes / r)))


def muennighoff(
    law: ChinchillaLaw, n: ArrayLike, d: ArrayLike, unique: ArrayLike,
    *, repeats: float = REPEATS, excess: float = 5.31,
) -> Array:  # fmt: skip
    r"""Loss with repeated tokens *and* more parameters than those tokens can use, the paper's whole form.

    Parameters beyond :math:`U_N`, the optimal count for U tokens, decay as tokens do:
    :math:`N_{eff} = U_N + U_N R_N (1 - e^{-(N/U_N - 1)/R_N})`.

    >>> bool(muennighoff(BESIROGLU, 1e9, 4e10, 1e10) > BESIROGLU(1e9, 4e10))
    True
    """
    u = np.minimum(_array(unique), _array(d))
    enough = optimal_size_for(law, u)
    return law(effective_tokens(n, np.minimum(enough, _array(n)), excess), effective_tokens(d, u, repeats))


def optimal_size_for(law: ChinchillaLaw, d: ArrayLike) -> Array:
    r"""N for which D tokens are compute-optimal: :math:`\alpha A N^{-\alpha} = \beta B D^{-\beta}` solved for N."""
    d = _array(d)
    ratio = law.alpha * law.size_term / (law.beta * law.data_term) * (d / law.d0) ** law.beta
    return np.asarray(law.n0 * ratio ** (1 / law.alpha))


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)
