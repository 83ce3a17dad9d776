r"""Muon: momentum whose update is made orthogonal, for the matrices inside a network.

.. math::
    B_t = \mu B_{t-1} + (1 - \mu) G_t, \qquad
    M_t = \mu B_t + (1 - \mu) G_t \text{ (Nesterov) or } B_t, \qquad
    W_t = (1 - \eta\lambda) W_{t-1} - 0.2\,\eta \sqrt{\max(m, n)}\; \mathrm{NS}(M_t)

With :math:`M = U S V^\top`, Newton-Schulz makes :math:`\mathrm{NS}(M) \approx U V^\top`: every direction of the
matrix moves by the same amount. The factor :math:`0.2\sqrt{\max(m, n)}` gives the update the root mean square of
an AdamW update, so one learning rate and one weight decay serve both.

Sources: Jordan et al., https://kellerjordan.github.io/posts/muon/; Liu et al., https://arxiv.org/abs/2502.16982;
Amsel et al., https://arxiv.org/abs/2505.16932 (Polar Express, the coefficients used by default). With
``coefficients=JORDAN`` it is ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, except that matrices of one
shape are stacked and orthogonalised together, and that a parameter which holds several matrices (query, key,
value) can be orthogonalised block by block.

Shapes: K matrices of M rows and N columns.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.errors import ConfigError
from steepest.optim.quick_start import QuickStart

Coefficients = Sequence[tuple[float, float, float]]

# One quintic five times: steepest at zero while all of (0, 1] stays near 1 (Jordan et al.).
JORDAN: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5

# A quintic a step, each the best for the interval that the one before leaves (Amsel et al., lower end 1e-3);
# the division keeps singular values that rounding has pushed beyond 1 from running away.
POLAR_EXPRESS: Coefficients = tuple(
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488034314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    )
)


def newton_schulz(
    matrices_KMN: Tensor, coefficients: Coefficients = POLAR_EXPRESS[:5], *, eps: float = 1e-7
) -> Tensor:
    r"""Bring the singular values of every matrix near 1, keeping its singular vectors.

    From :math:`X = M / \lVert M \rVert_F`, for every :math:`(a, b, c)`:
    :math:`X \leftarrow a X + (b A + c A^2) X` with :math:`A = X X^\top`, which applies
    :math:`a\sigma + b\sigma^3 + c\sigma^5` to each singular value. Works in the dtype it is given.

    >>> matrix = torch.tensor([[[3.0, 0.0], [0.0, -0.5]]])
    >>> newton_schulz(matrix).diagonal(dim1=1, dim2=2).round().tolist()
    [[1.0, -1.0]]
    """
    tall = matrices_KMN.size(-2) > matrices_KMN.size(-1)
    x_KMN = matrices_KMN.mT if tall else matrices_KMN
    x_KMN = x_KMN / torch.linalg.matrix_norm(x_KMN, keepdim=True).clamp_min(eps)
    for a, b, c in coefficients:
        gram_KMM = x_KMN @ x_KMN.mT
        gram_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        x_KMN = torch.baddbmm(x_KMN, gram_KMM, x_KMN, beta=a)
    return x_KMN.mT if tall else x_KMN


class Muon(QuickStart):
    """Momentum with orthogonalised updates; every parameter is a matrix.

    A group may carry ``splits``, the row counts of the matrices stacked in each of its parameters: orthogonalising
    a fused query-key-value matrix as one is another algorithm than orthogonalising its three parts. ``dtype`` is
    that of the Newton-Schulz products; left out, bfloat16 where the hardware multiplies it natively, else the
    parameter's own.

    >>> weight = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    >>> weight.grad = torch.tensor([[1.0, 0.0], [0.0, 1e-3]])
    >>> optimizer.step()
    >>> weight.data[1, 1] < 1   # the small direction moves as well
    tensor(True)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        splits: Sequence[int] = (),
        coefficients: Coefficients = POLAR_EXPRESS[:5],
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "splits": tuple(splits),
            "coefficients": tuple(coefficients),
        }
        self._dtype = dtype
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                _check_parameter(parameter, tuple(group["splits"]))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stacks: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            updates = self._momentum(params, group["momentum"], group["nesterov"])
            for parameter, update in zip(params, updates, strict=True):
                rows = list(group["splits"]) or [parameter.size(0)]
                for weight, block in zip(
                    torch.split(parameter, rows), torch.split(update, rows), strict=True
                ):
                    # A tall matrix joins the stack of its transpose.
                    flat = weight.size(0) <= weight.size(1)
                    weight, block = (weight, block) if flat else (weight.mT, block.mT)
                    key = (weight.shape, weight.dtype, weight.device, group["lr"], group["coefficients"])
                    stacks.setdefault(key, []).append((weight, block))
        for (shape, dtype, _, lr, coefficients), members in stacks.items():
            weights, blocks = zip(*members, strict=True)
            stack_KMN = torch.stack(blocks)
            stack_KMN = newton_schulz(stack_KMN.to(self._dtype or product_dtype(stack_KMN)), coefficients)
            rate = 0.2 * lr * max(shape) ** 0.5
            torch._foreach_add_(list(weights), list(stack_KMN.to(dtype).unbind()), alpha=-rate)
        return loss

    def _momentum(self, params: list[Tensor], momentum: float, nesterov: bool) -> list[Tensor]:
        grads = [parameter.grad for parameter in params if parameter.grad is not None]
        for parameter in params:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in params]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        return list(torch._foreach_lerp(grads, buffers, momentum)) if nesterov else buffers


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which Newton-Schulz is fast on the tensor's device without doing harm.

    Rounding to bfloat16 disturbs the singular values by less than stopping after five steps does.

    >>> product_dtype(torch.zeros(1, dtype=torch.float64))
    torch.float64
    """
    if tensor.dtype != torch.float32:
        return tensor.dtype
    native = tensor.device.type == "cuda" or (tensor.device.type == "cpu" and _bfloat16_is_native())
    return torch.bfloat16 if native else torch.float32


def _bfloat16_is_native() -> bool:
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return supported()


def _check_parameter(parameter: Tensor, splits: tuple[int, ...]) -> None:
    if parameter.ndim != 2:
        raise ConfigError(
            f"Muon updates matrices; got a parameter of shape {tuple(parameter.shape)}: give it to AdamW"
        )
    if splits and (min(splits) < 1 or sum(splits) != parameter.size(0)):
        raise ConfigError(
            f"splits {splits} must add up to the rows of the parameter, whose shape is {tuple(parameter.shape)}"
        )
