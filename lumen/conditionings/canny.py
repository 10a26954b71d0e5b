"""Canny edges (Canny 1986): where brightness changes most, thin and hard, as ControlNet's annotator draws them."""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings


@conditionings.register
class Canny(Conditioning):
    """1 on an edge, 0 elsewhere; of the three colours the one that changes most counts.

    Args:
        low: an edge weaker than this, in grey levels of a Sobel gradient, ends.
        high: an edge that is nowhere as strong as this is none.

    Source: the thresholds of ControlNet's gradio_canny2image.py.
    """

    channels = 1

    def __init__(self, low: int = 100, high: int = 200):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        images = batch.pixels.permute(0, 2, 3, 1).cpu().numpy()
        found = [cv2.Canny(np.ascontiguousarray(image), self.low, self.high) for image in images]
        return torch.from_numpy(np.stack(found))[:, None].to(batch.image.device) / 255
