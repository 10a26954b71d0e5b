"""Batch: images with their captions, ids, label maps and cached tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass
class Batch:
    """Images and what is known of each.

    Attributes:
        image: RGB in [-1, 1], or bytes until the batch reaches its device; None where `cached` replaces it.
        caption: One prompt per image.
        id: Permanent name of each image within its data set.
        mask: Class ids; `IGNORE` marks pixels without a class.
        extra: Further annotations by kind, one list per kind: disparity, camera, boxes.
        cached: Outputs of frozen networks from a cache, by the names of `Task.cache_keys`.
    """

    image: Float[Tensor, "b 3 H W"] | UInt8[Tensor, "b 3 H W"] | None
    caption: list[str]
    id: list[str]
    mask: Int[Tensor, "b H W"] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    cached: dict[str, Tensor] = field(default_factory=dict)

    @property
    def pixels(self) -> UInt8[Tensor, "b 3 H W"]:
        """Images as a PNG file holds them."""
        return ((self.image.float() + 1) * 127.5).round().clamp(0, 255).byte()

    def to(self, device: torch.device | str, **options: Any) -> "Batch":
        """Return a copy on a device, with the image as numbers in [-1, 1]. Lightning calls it; `extra` is not moved."""
        batch = self._map_tensors(lambda tensor: tensor.to(device, **options))
        if batch.image is not None and batch.image.dtype == torch.uint8:
            batch.image = batch.image.float() / 127.5 - 1
        return batch

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, from which a GPU reads asynchronously. The loader calls it."""
        return self._map_tensors(Tensor.pin_memory)

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: getattr(self, name) for name in ("image", "mask")}
        tensors = {name: function(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **tensors, cached={name: function(tensor) for name, tensor in self.cached.items()})
