"""Resizing, cropping and flipping of an image, identical for every map that is aligned with it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class CropTransform:
    """Resize, then crop, then flip horizontally. Sizes are (width, height) in pixels, as in PIL.

    Attributes:
        original_size: Size of the file.
        resized: Size after resizing.
        window: Crop (left, upper, right, lower) of the resized image.
        flipped: Whether the crop is mirrored.
    """

    original_size: tuple[int, int]
    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    flipped: bool = False

    @property
    def scale(self) -> float:
        """Factor of horizontal distances, such as a disparity in pixels."""
        return self.resized[0] / self.original_size[0]

    def apply(self, image: Image.Image) -> Image.Image:
        """Return the transformed image or map. Only RGB is interpolated: ids and distances must not be."""
        if self.resized != image.size:
            is_photo = image.mode == "RGB"
            image = image.resize(self.resized, Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST)
        if self.window != (0, 0, *self.resized):
            image = image.crop(self.window)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flipped else image


@dataclass(frozen=True)
class Augmentation:
    """Random choices that turn a training image into one of its views.

    Attributes:
        flip: Probability of a horizontal flip.
        random_crop: Whether training crops the image at a random position.
        num_crops: Crops per image, used in turn; None draws a new crop in every epoch.
        seed: Seed of all choices.
    """

    flip: float = 0.0
    random_crop: bool = False
    num_crops: int | None = None
    seed: int = 0

    def num_views(self) -> int | None:
        """Return the number of different views of an image; None if every epoch has its own."""
        return self.num_crops if self.random_crop else 2 if 0 < self.flip < 1 else 1

    def crop_index(self, epoch: int) -> int:
        """Return the number of the crop that an epoch uses."""
        return epoch % self.num_crops if self.random_crop and self.num_crops else epoch


def stretch_to_square(size: tuple[int, int], side: int) -> CropTransform:
    """Return a transform to a square without regard to proportions, as ALDM trains (facts: seeds.md §10 #8)."""
    return CropTransform(size, (side, side), (0, 0, side, side))


def crop_to_square(size: tuple[int, int], side: int) -> CropTransform:
    """Return a transform that resizes the short side to `side`, in proportion, and crops the central square."""
    short = min(size)
    resized = tuple(max(side, round(length * side / short)) for length in size)
    return CropTransform(size, resized, sample_window(resized, (side, side)))


def sample_window(
    resized: tuple[int, int], size: tuple[int, int], generator: "torch.Generator | None" = None
) -> tuple[int, int, int, int]:
    """Return a crop of a size at a uniformly random position, or in the centre without a generator."""
    margins = [outer - inner for outer, inner in zip(resized, size, strict=True)]
    if generator is None:
        left, upper = (margin // 2 for margin in margins)
    else:
        import torch

        left, upper = (int(torch.randint(margin + 1, (), generator=generator)) for margin in margins)
    return left, upper, left + size[0], upper + size[1]


def bernoulli(probability: float, generator: "torch.Generator | None") -> bool:
    """Return True with a probability, and False without a generator."""
    if generator is None:
        return False
    import torch

    return float(torch.rand((), generator=generator)) < probability


def to_tensor(image: Image.Image) -> "Tensor":
    """Return an RGB image as (3, H, W), or a map as (H, W), in the type of its pixels."""
    import torch

    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels
