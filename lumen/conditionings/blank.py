"""Blank layout: one channel of zeros, the baseline of a ControlNet without a layout."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings


@conditionings.register
class Blank(Conditioning):
    """Zeros of the size of the image."""

    channels = 1

    def __init__(self):
        super().__init__()

    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        """Return zeros."""
        return torch.zeros_like(batch.image[:, :1])
