"""Canny edges (Canny 1986): thin, binary edges at the largest changes of brightness, as in ControlNet's annotator."""

from typing import Annotated

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.interfaces.script import WeightsExpression
from lumen.core.ranges import Range
from lumen.core.registry import conditionings
from lumen.features.layout_script import resize_layout_code

PROGRAM = '''\
"""Canny edges of a photo, with OpenCV alone. As a program: python layout.py photo.jpg layout.npy."""

import sys

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

SIZE, LOW, HIGH = {size}, {low}, {high}


def layout(photo):
    """Return the layout (1, 1, {size}, {size}) of a PIL image, for image= of a ControlNet pipeline."""
    photo = ImageOps.exif_transpose(photo).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    cells = torch.from_numpy(cv2.Canny(np.array(photo), LOW, HIGH))[None, None] / 255
{resize}


if __name__ == "__main__":
    np.save(sys.argv[2], layout(Image.open(sys.argv[1]))[0].numpy())
'''


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

    def script(self, size: int, latents: int | None, locate: WeightsExpression) -> str:
        """Return a program that finds the edges of a photo with OpenCV alone."""
        return PROGRAM.format(size=size, low=self.low, high=self.high, resize=resize_layout_code(latents))
