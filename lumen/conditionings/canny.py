"""Canny edges (Canny 1986): thin, binary edges at the largest changes of brightness, as in ControlNet's annotator."""

from typing import Annotated

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.ranges import Range
from lumen.core.registry import conditionings


@conditionings.register
class Canny(Conditioning):
    """Binary edge map: 1 on an edge, 0 elsewhere. The colour channel with the largest gradient decides.

    Args:
        low: Lower threshold of the hysteresis, in grey levels of a Sobel gradient; weaker pixels are no edge.
        high: Upper threshold of the hysteresis; an edge has at least one pixel as strong as this.

    Source: The default thresholds of ControlNet's gradio_canny2image.py.
    """

    channels = 1

    def __init__(self, low: Annotated[int, Range(0, 10_000)] = 100, high: Annotated[int, Range(0, 10_000)] = 200):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        """Return OpenCV's edges of each image, rounded to bytes as in an image file."""
        images = batch.pixels.permute(0, 2, 3, 1).cpu().numpy()
        edges = [cv2.Canny(np.ascontiguousarray(image), self.low, self.high) for image in images]
        return torch.from_numpy(np.stack(edges))[:, None].to(batch.image.device) / 255
