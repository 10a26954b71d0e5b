"""Bilinear resizing of feature maps."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Resize bilinearly with aligned cell centres. The result is linear in the maps, so it commutes with a projection.

    A side that shrinks is averaged over each new cell, as thin lines would be lost between sampled points.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    shrinks = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=shrinks)
