"""What the parts promise one another: Batch, Backbone, Conditioning."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORE = 255  # the label of pixels that belong to no class


@dataclass
class Batch:
    """Images with what is known of them; `id` names a sample within its data set for ever."""

    image: Float[Tensor, "b 3 H W"]  # RGB in [-1, 1]
    caption: list[str]
    id: list[str]
    mask: Int[Tensor, "b H W"] | None = None  # class ids, IGNORE where there is none
    extra: dict[str, Any] = field(default_factory=dict)  # disparity, camera, boxes: where the data set has them

    def to(self, device: torch.device | str, **options: Any) -> "Batch":
        """A copy with image and mask on a device; Lightning calls it. `extra` stays where it is."""
        mask = None if self.mask is None else self.mask.to(device, **options)
        return replace(self, image=self.image.to(device, **options), mask=mask)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, from where a GPU takes it without waiting; the loader calls it."""
        return replace(self, image=self.image.pin_memory(), mask=None if self.mask is None else self.mask.pin_memory())


class Backbone(nn.Module):
    """A frozen network that looks at an image and gives dense features.

    A subclass sets the attributes and writes `maps`; several maps of different resolution
    are one feature after the coarser ones are resized to the finest and concatenated.
    """

    widths: tuple[int, ...]  # channels of each map
    stride: int  # image pixels per cell of the finest map
    identity: dict[str, str]  # what a basis fitted on these features belongs to, with the weights' hash

    def maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Features of an image in [-1, 1], one (b, c_i, h_i, w_i) each, the finest last.

        Raises:
            BadSize: the network cannot take this size; the message names sizes that it can.
        """
        raise NotImplementedError(f"{type(self).__name__} must write maps()")

    @property
    def channels(self) -> int:
        return sum(self.widths)

    def features(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        maps = self.maps(image)
        return torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)

    def frozen(self) -> "Backbone":
        """Itself, in evaluation mode, with no parameter that could learn."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: a frozen network has no training mode to be put into."""
        return super().train(False)


class Conditioning(nn.Module):
    """Turns a batch into the layout that the ControlNet sees."""

    channels: int
    fitted: bool = True  # False: `fit` must run before `forward`
    wants: int | None = 0  # training images that `fit` would like to see; None is all of them

    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        raise NotImplementedError(f"{type(self).__name__} must write forward()")

    def fit(self, batches: Iterable[Batch], images: int, seed: int, fingerprint: str) -> None:
        """Learns what `forward` needs from `images` training images; in DDP each rank brings its share."""

    def record(self) -> dict[str, float]:
        """Figures worth a line in the results."""
        return {}


def resize(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Bilinear, cell centres aligned: linear in the values, so it commutes with a projection."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
