"""Live bytes, operation by operation: of real tensors, or of fake ones that take no memory at all.

    live(t)  = sum of the storages that exist after operation t
    peak     = max over t of live(t)

A dispatch mode sees every operation that torch runs: forward, backward, recomputation and optimiser alike. A new
storage is counted once, rounded up as the allocator does it, and leaves the count when its last reference dies.
Each byte has a kind (weights, optimiser, gradients, batch, activations) and each moment a phase, found without
any help from the step: inside the autograd engine is "backward", inside an optimiser "update", from a module's
call on "forward", and what lies between "between" (clipping, say).

What a kernel allocates and frees inside itself is not seen, but for one thing that is known: an elementwise kernel
on a CPU copies operands that are in another dtype than the one it computes in. (Of the rest, oneDNN's scratch for
bfloat16 products is a few hundred kB.)

Floating-point operations come from torch's own registry of formulas. (``FlopCounterMode`` itself is not used: its
module hooks keep recomputed tensors alive.)
"""

import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Kind = Literal["weights", "optimiser", "gradients", "batch", "activations"]
KINDS: tuple[Kind, ...] = ("weights", "optimiser", "gradients", "batch", "activations")
Phase = Literal["forward", "backward", "between", "update"]
Key = tuple[Any, ...]
Bytes = tuple[int, ...]  # one number a kind, in the order of ``KINDS``

ROUNDING = {"cpu": 64, "cuda": 512}  # what an allocation is rounded up to


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered; ``add`` names what was there before.

    Attributes:
        live: bytes now, by kind.
        peaks: the largest moment of every stretch of the step, as bytes by kind; see ``predict.extrapolate``.
        timeline: phase and live bytes after every operation.
        flops, traffic, operations: floating-point operations, bytes read and written, and calls, by phase.

    >>> tracker = Tracker()
    >>> with tracker:
    ...     x = torch.zeros(256)  # 1 kB
    ...     y = x + 1
    ...     del x
    >>> tracker.peak, sum(tracker.live.values())
    (2048, 1024)
    """

    def __init__(self, rounding: int = ROUNDING["cpu"]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounding = rounding
        self.live: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.peaks: dict[Key, Bytes] = {}
        self.climbs: dict[Key, int] = {}  # of a stretch's peak above its beginning
        self.timeline: list[tuple[Phase, int]] = []
        self.flops: Counter[Phase] = Counter()
        self.traffic: Counter[Phase] = Counter()
        self.operations: Counter[Phase] = Counter()
        self.held: Bytes | None = None  # when the first backward begins
        self.stretch: Key = ("start",)
        self._total = self._began = 0
        self._phase: Phase = "forward"
        self._updating = False
        self._noted: Key = ()
        self._storages: dict[int, tuple[weakref.ref[Any], int, Kind]] = {}
        self._ordinals: defaultdict[Key, int] = defaultdict(int)

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max((sum(peak) for peak in self.peaks.values()), default=self._total)

    @property
    def total(self) -> int:
        """Bytes alive now."""
        return self._total

    def add(self, tensor: Tensor, kind: Kind = "activations") -> None:
        """Count a tensor's storage, if it is not counted yet."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = math.ceil(storage.nbytes() / self.rounding) * self.rounding
        if size:
            self._storages[key] = (weakref.ref(storage, lambda _: self._remove(key)), size, kind)
            self.live[kind] += size
            self._total += size

    def rename(self, tensor: Tensor, kind: Kind) -> None:
        """Give a storage that is counted another kind."""
        key = tensor.untyped_storage()._cdata
        if key not in self._storages:
            return self.add(tensor, kind)
        reference, size, old = self._storages[key]
        self._storages[key] = (reference, size, kind)
        self.live[old] -= size
        self.live[kind] += size
        if sum(self.peaks.get(self._noted, ())) == self._total:
            self.peaks[self._noted] = tuple(self.live.values())

    def begin(self, stretch: Key) -> None:
        """A new stretch of the step begins here."""
        self.stretch, self._began = stretch, self._total

    def phase(self) -> Phase:
        """What the step is doing."""
        if self._updating:
            return "update"
        if torch._C._current_graph_task_id() != -1:
            if self.held is None:
                self.held = tuple(self.live.values())
            self._phase = "backward"
        elif self._phase == "backward":
            self._phase = "between"
            self.begin(("start",))
        return self._phase

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it made."""
        name = op.overloadpacket
        if name is torch.ops.aten._local_scalar_dense and _is_fake(args[0]):
            return 1.0 if args[0].dtype.is_floating_point else 1  # a fake tensor has no value; any will do
        if name is torch.ops.aten.equal and _is_fake(args[0]):
            return True
        out = op(*args, **(kwargs or {}))
        if op.namespace in ("prim", "profiler"):
            return out
        leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for leaf in leaves:
            self.add(leaf)
        phase = self.phase()
        if name in flop_registry:
            self.flops[phase] += flop_registry[name](*args, **(kwargs or {}), out_val=out)
        copies = 0
        if not op.is_view:
            inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            copies = _copied(op, inputs)
            self.traffic[phase] += sum(leaf.numel() * leaf.element_size() for leaf in (*inputs, *leaves))
            self.operations[phase] += 1
        self._note(phase, str(name), copies)
        return out

    def _note(self, phase: Phase, name: str, passing: int) -> None:
        """Keep the moment; ``passing`` bytes are alive inside the operation only."""
        total = self._total + passing
        self.timeline.append((phase, total))
        key: Key = (phase, *self.stretch)
        self.climbs[key] = max(self.climbs.get(key, 0), total - self._began)
        if self.stretch[0] != "block":
            # The n-th call of an operation has the same place in a deeper model.
            ordinal = self._ordinals[*key, name]
            self._ordinals[*key, name] += 1
            key = (*key, name, ordinal)
        self._noted = key
        if total > sum(self.peaks.get(key, ())):
            *others, activations = self.live.values()
            self.peaks[key] = (*others, activations + passing)

    def _remove(self, key: int) -> None:
        entry = self._storages.pop(key, None)
        if entry is not None:
            self.live[entry[2]] -= entry[1]
            self._total -= entry[1]

    # -- what the step is doing -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to count."""
        self._hooks = [
            register_module_forward_pre_hook(self._module_called),
            register_optimizer_step_pre_hook(self._update_begins),
            register_optimizer_step_post_hook(self._update_ends),
        ]
        entered: Self = super().__enter__()  # type: ignore[no-untyped-call]
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count no more."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def watching(
        self, module: nn.Module, blocks: Mapping[nn.Module, int], loss: nn.Module | None = None
    ) -> Iterator[None]:
        """Name gradients as they arrive; let stretches begin at a block's calls and gradients, and after ``loss``."""
        of_parameter = {
            parameter: index for block, index in blocks.items() for parameter in block.parameters()
        }
        hooks = [
            parameter.register_post_accumulate_grad_hook(self._gradient_hook(of_parameter.get(parameter)))  # type: ignore[no-untyped-call]
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        for block, index in blocks.items():
            for part in block.modules():
                hooks.append(part.register_forward_pre_hook(self._block_hook(index)))
            hooks.append(block.register_forward_hook(self._block_left))
        if loss is not None:
            hooks.append(loss.register_forward_pre_hook(lambda *_: self.begin(("ends",))))
            hooks.append(loss.register_forward_hook(lambda *_: self.begin(("loss",))))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _gradient_hook(self, block: int | None) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self.rename(parameter.grad, "gradients")
            stretch = ("ends",) if block is None else ("block", block)
            if stretch != self.stretch:
                self.begin(stretch)

        return arrived

    def _block_hook(self, block: int) -> Callable[..., None]:
        def called(module: nn.Module, inputs: Any) -> None:
            if self.stretch != ("block", block):
                self.begin(("block", block))

        return called

    def _block_left(self, *_: Any) -> None:
        if torch._C._current_graph_task_id() == -1:
            self.begin(("ends",))

    def _module_called(self, module: nn.Module, inputs: Any) -> None:
        if self._phase != "forward" and torch._C._current_graph_task_id() == -1:
            self._phase = "forward"
            self.begin(("start",))

    def _update_begins(self, *_: Any) -> None:
        self.phase()
        self._updating = True
        if self._phase != "backward":  # a step inside the backward pass belongs to its block's stretch
            self.begin(("update",))

    def _update_ends(self, *_: Any) -> None:
        self._updating = False
        if self._phase != "backward":
            self._phase = "between"


def _copied(op: Any, inputs: list[Tensor]) -> int:
    """Bytes of the copies that an elementwise CPU kernel makes of operands in another dtype."""
    dtypes = {tensor.dtype for tensor in inputs if tensor.is_floating_point() and tensor.ndim}
    if len(dtypes) < 2 or torch.Tag.pointwise not in op.tags or not inputs[0].is_cpu:
        return 0
    computed = reduce(torch.promote_types, dtypes)
    return sum(
        tensor.numel() * computed.itemsize
        for tensor in inputs
        if tensor.is_floating_point() and tensor.dtype != computed
    )


def _is_fake(tensor: Tensor) -> bool:
    return isinstance(tensor, torch._subclasses.FakeTensor)
