"""Bilinear resizing of feature maps."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Bilinear, cell centres aligned: linear in the values, so it commutes with a projection."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    # Where it shrinks, over all that falls into a cell: a thin line would be lost between two points.
    shrinks = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=shrinks)
