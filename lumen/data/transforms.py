"""Resizing, cropping, padding and flipping of an image, identical for every map that is aligned with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from lumen.core.labels import IGNORE

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Fit = Literal["stretch", "crop", "pad"]
GREY = (127, 127, 127)  # of the bars beside a photo; the networks' zero
# Beside maps, by PIL's mode: label maps have no class there, and distances are invalid.
BARS = {"RGB": GREY, "L": IGNORE, "F": float("nan")}


@dataclass(frozen=True)
class CropTransform:
    """Resize, then crop or pad, then flip horizontally. Sizes are (width, height) in pixels, as in PIL.

    Attributes:
        original_size: Size of the file.
        resized: Size after resizing.
        window: Crop (left, upper, right, lower) of the resized image; what lies outside of the image becomes bars.
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
            image = image.crop(self.window) if self._is_inside else self._pad(image)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flipped else image

    @property
    def _is_inside(self) -> bool:
        left, upper, right, lower = self.window
        return min(left, upper) >= 0 and right <= self.resized[0] and lower <= self.resized[1]

    def _pad(self, image: Image.Image) -> Image.Image:
        """Return an image within bars."""
        left, upper, right, lower = self.window
        canvas = Image.new(image.mode, (right - left, lower - upper), BARS.get(image.mode, 0))
        canvas.paste(image, (-left, -upper))
        return canvas


@dataclass(frozen=True)
class Augmentation:
    """Random choices that turn a training image into one of its views.

    Attributes:
        flip: Probability of a horizontal flip.
        random_crop: Whether training crops the image at a random position.
        num_crops: Crops per image, used in turn; None samples a new crop in every epoch.
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


def pad_to_square(size: tuple[int, int], side: int) -> CropTransform:
    """Return a transform that resizes the long side to `side`, in proportion, and adds bars, as ImageOps.pad does."""
    long = max(size)
    resized = tuple(max(1, round(length / long * side)) for length in size)
    left, upper = (-round((side - length) / 2) for length in resized)
    return CropTransform(size, resized, (left, upper, left + side, upper + side))


FITS: dict[Fit, Callable[[tuple[int, int], int], CropTransform]] = {
    "stretch": stretch_to_square,
    "crop": crop_to_square,
    "pad": pad_to_square,
}


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
