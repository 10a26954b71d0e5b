"""No layout: one channel of zeros, to see how far the ControlNet gets without one."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings


@conditionings.register
class Blank(Conditioning):
    """Of the size of the image and the same for every image."""

    channels = 1

    def __init__(self):
        super().__init__()

    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        return torch.zeros_like(batch.image[:, :1])
