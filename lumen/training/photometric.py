"""Photometric distortion of training images, with random numbers that follow from a key of each image."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional

from lumen.core.random import generator

# Greatest changes of an RGB image in [0, 1], as mmsegmentation's SegFormer recipe has them: brightness by 32 of 255,
# contrast and saturation by a half, hue by 18 of OpenCV's 180 units.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 0.1
PROBABILITY = 0.5  # of each change


def distort(image: Float[Tensor, "b 3 H W"], keys: list[tuple]) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1] with other brightness, contrast, saturation and hue.

    Source: PhotoMetricDistortion of mmsegmentation 1.2, after SSD (Liu et al. 2016).

    Args:
        keys: One per image, such as (seed, id, step); all randomness follows from it.
    """
    return torch.stack([_distort(x, generator(*key)) for x, key in zip(image, keys, strict=True)])


def _distort(image: Float[Tensor, "3 H W"], source: torch.Generator) -> Float[Tensor, "3 H W"]:
    applies = (torch.rand(5, generator=source) < PROBABILITY).tolist()
    brightness, contrast, saturation, hue = (torch.rand(4, generator=source) * 2 - 1).tolist()
    x = (image + 1) / 2
    if applies[0]:
        x = (x + BRIGHTNESS * brightness).clamp(0, 1)
    contrast_comes_first = applies[4]
    if applies[1] and contrast_comes_first:
        x = (x * (1 + CONTRAST * contrast)).clamp(0, 1)
    if applies[2]:
        x = functional.adjust_saturation(x, 1 + SATURATION * saturation)
    if applies[3]:
        x = functional.adjust_hue(x, HUE * hue)
    if applies[1] and not contrast_comes_first:
        x = (x * (1 + CONTRAST * contrast)).clamp(0, 1)
    return x * 2 - 1
