"""Colours of the cell: the trivial layout, which no network is needed for."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Backbone
from lumen.core.ranges import Count
from lumen.core.registry import backbones
from lumen.features.extraction import resize_to_multiple


class Pixels(Backbone):
    """Mean colours of the parts of each cell; their principal components are a small copy of the image.

    Args:
        cell: Side of a cell, in pixels of the image.
        parts: Parts along each side of a cell.
        fit: Resize images to the nearest multiple of the cell.
    """

    def __init__(self, cell: int, parts: int, fit: bool):
        super().__init__()
        self.stride, self.parts, self.fit = cell, parts, fit
        self.map_channels = (3 * parts**2,)
        self.identity = {"name": "pixels", "cell": str(cell), "parts": str(parts)}

    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map: the colours of the parts of a cell, in [-1, 1]."""
        image = resize_to_multiple(image.detach(), self.stride, self.fit, "pixels")
        grid = [side // self.stride * self.parts for side in image.shape[-2:]]
        return [F.pixel_unshuffle(F.adaptive_avg_pool2d(image, grid), self.parts)]


@backbones.register
def pixels(cell: Count = 8, parts: Count = 4, fit: bool = True) -> Pixels:
    """Return the colours of each cell.

    The default has as many channels as a layout of 20 components needs. With parts=1 and conditioning.components=3, a
    layout is the mean colour of the cell.

    Args:
        cell: Side of a cell in pixels; 8 is the cell of Stable Diffusion's latents.
        parts: Mean colours along each side of a cell, so a cell has 3 parts² numbers.
    """
    return Pixels(cell, parts, fit)
