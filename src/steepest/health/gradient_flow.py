r"""Gradient flow: one backward pass, read block by block and role by role.

    stream      h_0 -> block -> h_1 -> ... -> h_L          the residual stream, read before each block and at the end
    g_i         rms(dL/dh_i),      a_i = rms(h_i)
    g_0 / g_L   how much of the gradient reaches the first block

With :math:`J = \partial h_L / \partial h_0` the gradient arrives as :math:`J^\top g`, so :math:`g_0/g_L` estimates the root mean
square of J's singular values, at the price of a hook. It is the signal that matters. The gradient of the weights is
blind: in a ReLU net without normalisation the exploding gradient and the growing activation cancel in it.

Beside it, for every block's attention, mlp and norm, for embedding and head: rms of gradient and weight, the update
that the last step made over the weight, what the part adds to the stream, the largest attention logit, the share of
units that are dead, the mean cosine of two embeddings.

The pass is one of its own over a few sequences, without dropout, between two steps. So the training step is not
touched: losses and weights are those of a run without it, whether blocks are compiled, recomputed or reversible.
Source: the stream's gain against Jacobian-vector products, measured in docs/health.md.

Shapes: B sequences, T positions, D width, M units, H heads, E width of a head.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steepest.data.examples import AnyBatch
from steepest.health.probe import Probe, in_backward_pass
from steepest.model.attention import Attention
from steepest.model.rotary import queries_keys_values
from steepest.model.swiglu import SwiGLU
from steepest.objectives import Objective

Flow = dict[str, Any]  # the record described in docs/run-folder.md

SAMPLE = 4096  # entries of a tensor that stand for all of them where its update is measured
ROWS = 1024  # of an embedding, for the mean cosine
DEAD = 1e-4  # a unit is dead if it never exceeds this share of its layer's rms
LOGIT_ROWS = 1  # sequences whose attention logits are computed again


class WeightSample:
    """Some entries of every parameter, kept over a step to see how far it moves them.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> sample = WeightSample(layer)
    >>> _ = layer.weight.data.mul_(1.01)
    >>> round(sample.moved()["weight"], 4)  # rms of the change: 0.01 * sqrt(12.5)
    0.0354
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._before = {name: _some(one).clone() for name, one in self._parameters.items()}

    @torch.no_grad()
    def moved(self) -> dict[str, float]:
        """Root mean square of each parameter's change since."""
        if not self._before:
            return {}
        names = list(self._before)
        changes = torch._foreach_sub(
            [_some(self._parameters[name]) for name in names], list(self._before.values())
        )
        norms = torch.stack(torch._foreach_norm(list(changes))).tolist()
        return {
            name: norm / math.sqrt(change.numel())
            for name, norm, change in zip(names, norms, changes, strict=True)
        }


def gradient_flow(
    objective: Objective,
    batch: AnyBatch,
    *,
    moved: Mapping[str, float] | None = None,
    micro_batch: int | None = None,
    autocast: torch.dtype | None = None,
) -> Flow:
    """Run one backward pass over a batch and read it; weights, gradients and generators stay as they are.

    Args:
        batch: what the loss is of, on the objective's device.
        moved: rms of what the last step changed each parameter by, see ``WeightSample``.
        micro_batch: rows at once; all of them if ``None``.
        autocast: dtype of the matrix products, as in training.

    Returns:
        The record under "gradient_flow" in ``metrics.jsonl``; a figure that is not finite is ``None``.
    """
    names = dict(objective.named_parameters())
    depth = len(objective.trunk.blocks)
    streams = [f"trunk.blocks.{i}.attention_norm" for i in range(depth)] + ["trunk.norm"]
    halves = [f"trunk.blocks.{i}.{half}" for half in ("attention", "mlp") for i in range(depth)]
    rows = micro_batch or len(batch.ids_BT)
    with (
        _undisturbed(objective),
        Probe(objective, inputs=streams, outputs=[*halves, "trunk.embedding"]) as probe,
        _Extremes(objective) as extremes,
    ):
        objective.accumulate_gradient(batch, micro_batch=rows, autocast=autocast)
        gradients = _sizes({name: one.grad for name, one in names.items() if one.grad is not None})
    weights = _sizes({name: one.detach() for name, one in names.items()})
    seen = probe.read()
    parts = _parts(names)
    flow: Flow = {
        "stream": {
            "activation": [seen[f"{name} in"].activation for name in streams],
            "gradient": [seen[f"{name} in"].gradient for name in streams],
        }
    }
    for role, places in parts.items():
        flow[role] = {
            "gradient": [_rms(gradients, place) for place in places],
            "weight": [_rms(weights, place) for place in places],
            "update": [_update(moved, weights, place) for place in places],
        }
    for half in ("attention", "mlp"):
        flow[half]["activation"] = [seen[f"trunk.blocks.{i}.{half} out"].activation for i in range(depth)]
    flow["attention"]["logit"] = extremes.logits()
    flow["mlp"]["dead"] = extremes.dead()
    flow["embedding"]["activation"] = [seen["trunk.embedding out"].activation]
    flow["embedding"]["cosine"] = mean_cosine(objective.trunk.embedding.weight)
    if objective.trunk.grid is not None and flow["stream"]["gradient"][-1] is not None:
        flow["stream"]["gradient"][-1] /= 2  # the output is the mean of two streams, the readings are of one
    flow["first_to_last"] = first_to_last(flow)
    short: Flow = _shortened(flow)
    return short


def first_to_last(flow: Flow) -> float | None:
    """Stream gradient before the first block over that after the last; ``None`` if there is none.

    >>> first_to_last({"stream": {"gradient": [2.0, 1.0, 0.5]}})
    4.0
    """
    gradients = flow["stream"]["gradient"]
    if gradients[0] is None or not gradients[-1]:
        return None
    return float(gradients[0] / gradients[-1])


@torch.no_grad()
def mean_cosine(rows_VD: Tensor) -> float:
    r"""Mean cosine of two different rows, :math:`(\lvert \sum_i \hat e_i \rvert^2 - n) / (n (n - 1))`; near 1 all say the same.

    At most ``ROWS`` rows are looked at, evenly spread.

    >>> mean_cosine(torch.eye(3)), mean_cosine(torch.ones(3, 3))
    (0.0, 1.0)
    """
    step = max(1, len(rows_VD) // ROWS)
    unit = torch.nn.functional.normalize(rows_VD[::step][:ROWS].float(), dim=1)
    n = len(unit)
    return float(((unit.sum(0).square().sum() - n) / max(n * (n - 1), 1)).item())


@contextmanager
def _undisturbed(objective: Objective) -> Iterator[None]:
    """Without dropout, reversible streams held; gradients, generators and settings are put back."""
    trunk = objective.trunk
    backward, recompute, training = trunk.backward, trunk.recompute_blocks, objective.training
    held = {parameter: parameter.grad for parameter in objective.parameters()}
    devices = sorted({one.device.index or 0 for one in held if one.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        for parameter in held:
            parameter.grad = None
        objective.eval()
        if backward == "invert":  # streams that are rebuilt have no gradient of their own
            trunk.set_backward("store")
        try:
            yield
        finally:
            trunk.set_backward(backward, recompute)
            objective.train(training)
            for parameter, gradient in held.items():
                parameter.grad = gradient


class _Extremes:
    """Largest attention logit of every block, and largest value of every unit of every mlp."""

    def __init__(self, objective: Objective) -> None:
        self._attentions = [one for one in objective.modules() if isinstance(one, Attention)]
        self._mlps = [one for one in objective.modules() if isinstance(one, SwiGLU)]
        self._logits: dict[nn.Module, Tensor] = {}
        self._peaks: dict[nn.Module, Tensor] = {}
        self._squares: dict[nn.Module, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "_Extremes":
        for attention in self._attentions:
            self._handles.append(attention.register_forward_pre_hook(self._see_logits, with_kwargs=True))
        for mlp in self._mlps:
            self._handles.append(mlp.down.register_forward_pre_hook(self._see_units))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def logits(self) -> list[float | None]:
        return [self._logits[one].item() if one in self._logits else None for one in self._attentions]

    def dead(self) -> list[float | None]:
        """Share of each layer's units whose largest value stays below ``DEAD`` of the layer's rms."""
        shares: list[float | None] = []
        for mlp in self._mlps:
            peaks, squares = self._peaks.get(mlp.down), self._squares.get(mlp.down)
            if peaks is None or squares is None:
                shares.append(None)
                continue
            shares.append((peaks <= DEAD * squares.sqrt()).float().mean().item())
        return shares

    @torch.no_grad()
    def _see_logits(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward_pass():
            return
        assert isinstance(module, Attention)
        x_BTD, rotation = args[0][:LOGIT_ROWS], args[1] if len(args) > 1 else kwargs["rotation"]
        mask = kwargs.get("mask")
        qkv_BTNE = module.qkv(x_BTD).unflatten(-1, (-1, module.head_dim))
        q_BHTE, k_BGTE, _ = queries_keys_values(
            qkv_BTNE,
            module.q_norm.weight,
            module.k_norm.weight,
            rotation,
            kv_heads=module.kv_heads,
            eps=module.eps,
        )
        k_BHTE = k_BGTE.repeat_interleave(module.heads // module.kv_heads, dim=1)
        scores_BHTT = (q_BHTE @ k_BHTE.transpose(2, 3)).float().abs_().mul_(module.head_dim**-0.5)
        if mask is None:
            scores_BHTT = scores_BHTT.tril()
        else:
            scores_BHTT = scores_BHTT.masked_fill(~mask[:LOGIT_ROWS, None], 0.0)
        largest = scores_BHTT.max()
        old = self._logits.get(module)
        self._logits[module] = largest if old is None else torch.maximum(old, largest)

    @torch.no_grad()
    def _see_units(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if in_backward_pass():
            return
        units_NM = args[0].detach().flatten(0, -2)
        peaks, square = units_NM.abs().amax(0).float(), units_NM.float().square().mean()
        old = self._peaks.get(module)
        self._peaks[module] = peaks if old is None else torch.maximum(old, peaks)
        self._squares[module] = square if old is None else torch.maximum(self._squares[module], square)


def _parts(names: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
    """Parameters by role and block: attention, mlp, norm (a list a block each), embedding, head."""
    blocks: dict[int, dict[str, list[str]]] = {}
    parts: dict[str, list[list[str]]] = {"embedding": [[]], "head": [[]]}
    for name, parameter in names.items():
        path = name.split(".")
        if path[:2] == ["trunk", "blocks"]:
            role = "norm" if parameter.ndim < 2 else path[3]
            blocks.setdefault(int(path[2]), {}).setdefault(role, []).append(name)
        elif path[0] == "trunk":
            if path[1] == "embedding":
                parts["embedding"][0].append(name)
        elif parameter.ndim >= 2:
            parts["head"][0].append(name)
    if not parts["head"][0]:  # tied: the embedding is the head
        del parts["head"]
    inside = {
        role: [blocks[i].get(role, []) for i in sorted(blocks)] for role in ("attention", "mlp", "norm")
    }
    return inside | parts


Sizes = dict[str, tuple[float, int]]  # sum of squares and number of entries, by name


def _sizes(tensors: Mapping[str, Tensor]) -> Sizes:
    if not tensors:
        return {}
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(list(tensors.values()))]).tolist()
    return {
        name: (norm * norm, tensor.numel())
        for (name, tensor), norm in zip(tensors.items(), norms, strict=True)
    }


def _rms(sizes: Sizes, names: list[str]) -> float | None:
    found = [sizes[name] for name in names if name in sizes]
    return math.sqrt(sum(s for s, _ in found) / sum(n for _, n in found)) if found else None


def _update(moved: Mapping[str, float] | None, weights: Sizes, names: list[str]) -> float | None:
    """Rms of the last step's change over the rms of the weights, of all parameters together."""
    if moved is None:
        return None
    change = sum(moved[name] ** 2 * weights[name][1] for name in names if name in moved)
    size = sum(weights[name][0] for name in names if name in moved)
    return math.sqrt(change / size) if size else None


def _some(parameter: Tensor) -> Tensor:
    """At most ``SAMPLE`` or so entries, evenly spread; an odd stride, to meet every column."""
    return parameter.detach().flatten()[:: (parameter.numel() // SAMPLE) | 1]


def _shortened(value: Any) -> Any:
    """Four digits are enough to look at; what is not finite is ``None``, for JSON has no word for it."""
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
