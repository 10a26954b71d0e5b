"""How much memory a computation takes on a device, without the device: shapes alone are followed."""

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

BLOCK = 512  # bytes: what CUDA's allocator rounds up to
LOWER = {F.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
UPPER = {F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss}
"""What autocast runs in half and in single precision on a GPU, of what these networks use.

Source: PyTorch, "CUDA Ops that can autocast". The CPU's autocast leaves norms in half precision.
"""


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that live, and the most that ever lived at once.

    torch.distributed's MemTracker, which does the same, does not take networks of which a part is frozen.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self._meet(each.untyped_storage())
        return out

    def lap(self) -> int:
        """The most that lived at once since the last lap."""
        peak, self.peak = self.peak, self.now
        return peak

    def _meet(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage once, however many views of it there are, until it is let go."""
        if storage in self.known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


class Mixed(TorchFunctionMode):
    """Where the CPU's autocast is on, what a GPU's would do: the same casts, weights cast once in a forward pass."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.kept: dict[Tensor, Tensor] | None = {}  # of learning weights; None: nothing is kept, as while recomputing

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **(kwargs or {}))
        to = self.dtype if function in LOWER else torch.float32 if function in UPPER else None
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
        if self.kept is None or not (x.is_leaf and x.requires_grad):
            return x.to(to)
        return self.kept.setdefault(x, x.to(to)) if x not in self.kept else self.kept[x]


@contextmanager
def followed(half: torch.dtype | None = None) -> Iterator[tuple[Live, Mixed]]:
    """Tensors made inside have shapes and no values, and are counted.

    Args:
        half: what autocast casts to; None is single precision throughout.
    """
    # In one thread, which has these modes; and on the CPU: backward passes of fake CUDA tensors want a GPU.
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.set_multithreading_enabled(False),
        Mixed(half or torch.float32) as mixed,
        Live() as live,
    ):
        yield live, mixed


def place(network: nn.Module, placed: set[nn.Module]) -> None:
    """Gives a network that is on no device tensors that are followed; those placed already are passed over."""
    for module in network.modules():
        if module in placed:
            continue
        placed.add(module)
        for name, x in _own(module._parameters):
            module._parameters[name] = nn.Parameter(torch.empty(x.shape, dtype=x.dtype), requires_grad=x.requires_grad)
        for name, x in _own(module._buffers):
            module._buffers[name] = torch.empty(x.shape, dtype=x.dtype)


def backward(loss: Tensor) -> None:
    """loss.backward(), by the engine itself: from Python `Mixed` would be off, and recomputing would not cast."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True)


def _own(tensors: dict[str, Tensor | None]) -> Iterable[tuple[str, Tensor]]:
    return [(name, x) for name, x in tensors.items() if x is not None]
