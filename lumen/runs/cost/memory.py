"""Memory tracker: bytes that a computation allocates on a device, from the shapes of fake tensors."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

ALLOCATION_BYTES = 512  # CUDA's allocator rounds up to a multiple
HALF_OPS = {F.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
SINGLE_OPS = {F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss}
"""Operations of these networks that autocast runs in half or single precision on a GPU.

Source: PyTorch, "CUDA Ops that can autocast". The CPU's autocast leaves norms in half precision.
"""


class MemoryTracker(TorchDispatchMode):
    """Counter of the bytes of all living tensors, and of their peak.

    torch.distributed's MemTracker refuses networks of which a part is frozen.

    Attributes:
        current: Bytes of the living tensors.
        peak: Most bytes since the last `pop_peak`.
    """

    def __init__(self):
        super().__init__()
        self.current = self.peak = 0
        self.storages = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def pop_peak(self) -> int:
        """Return the peak since the last call, and start anew."""
        peak, self.peak = self.peak, self.current
        return peak

    def _add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; views of it do not count."""
        if storage in self.storages:
            return
        size = -(-storage.nbytes() // ALLOCATION_BYTES) * ALLOCATION_BYTES
        self.storages[storage] = size
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.current -= size


class SimulatedAutocast(TorchFunctionMode):
    """A GPU's autocast where the CPU's is on: the same casts, and weights cast once per forward pass.

    Args:
        dtype: Half precision.

    Attributes:
        casts: Cast copies of trained weights; None while nothing is reused, as in recomputation.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.casts: dict[Tensor, Tensor] | None = {}

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **(kwargs or {}))
        to = self.dtype if function in HALF_OPS else torch.float32 if function in SINGLE_OPS else None
        torch.set_autocast_enabled("cpu", False)
        try:
            if to is not None:
                args, kwargs = tree_map_only(Tensor, lambda x: self._cast(x, to), (args, kwargs))
            return function(*args, **(kwargs or {}))
        finally:
            torch.set_autocast_enabled("cpu", True)

    def _cast(self, x: Tensor, to: torch.dtype) -> Tensor:
        if x.dtype == to or x.dtype not in (torch.float32, self.dtype):
            return x
        if self.casts is None or not (x.is_leaf and x.requires_grad):
            return x.to(to)
        return self.casts.setdefault(x, x.to(to)) if x not in self.casts else self.casts[x]


@contextmanager
def track_memory(half: torch.dtype | None = None) -> Iterator[tuple[MemoryTracker, SimulatedAutocast]]:
    """Count the tensors that are allocated in the context; they have shapes and no values.

    Args:
        half: Type that autocast casts to; None is single precision throughout.
    """
    # In one thread, because modes belong to a thread; and on the CPU, because backward passes of fake CUDA tensors need
    # a GPU.
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.set_multithreading_enabled(False),
        SimulatedAutocast(half or torch.float32) as autocast,
        MemoryTracker() as tracker,
    ):
        yield tracker, autocast


def allocate(network: nn.Module, allocated: set[nn.Module]) -> None:
    """Give a network on the meta device tensors that are tracked; modules in `allocated` are skipped."""
    for module in network.modules():
        if module in allocated:
            continue
        allocated.add(module)
        for name, x in _own(module._parameters):
            module._parameters[name] = nn.Parameter(torch.empty(x.shape, dtype=x.dtype), requires_grad=x.requires_grad)
        for name, x in _own(module._buffers):
            module._buffers[name] = torch.empty(x.shape, dtype=x.dtype)


def backward(loss: Tensor) -> None:
    """Run loss.backward() by the engine: from Python `SimulatedAutocast` would be off, and recomputation not cast."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True)


def _own(tensors: dict[str, Tensor | None]) -> Iterable[tuple[str, Tensor]]:
    return [(name, x) for name, x in tensors.items() if x is not None]
