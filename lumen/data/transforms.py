"""Which part of an image is looked at: one frame, applied to the image and to every map beside it."""

from dataclasses import dataclass

import torch
from PIL import Image


@dataclass(frozen=True)
class Frame:
    """Resize to `resized`, cut out `window`, then mirror; sizes in pixels, as PIL has them: (width, height)."""

    given: tuple[int, int]  # of the file
    resized: tuple[int, int]
    window: tuple[int, int, int, int]  # left, upper, right, lower within `resized`
    mirrored: bool = False

    @property
    def scale(self) -> float:
        """What horizontal distances (a disparity, in pixels) grow by."""
        return self.resized[0] / self.given[0]

    def cut(self, plane: Image.Image) -> Image.Image:
        """The frame's part of an image or map; only RGB is interpolated, ids and distances never are."""
        if self.resized != plane.size:
            smooth = plane.mode == "RGB"
            plane = plane.resize(self.resized, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
        if self.window != (0, 0, *self.resized):
            plane = plane.crop(self.window)
        return plane.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else plane


def stretch(given: tuple[int, int], size: int) -> Frame:
    """The whole image as a square, its proportions given up (as ALDM trains; facts: seeds.md §10 #8)."""
    return Frame(given, (size, size), (0, 0, size, size))


def crop(given: tuple[int, int], size: int) -> Frame:
    """The square in the middle, once the short side is `size`: proportions kept, the ends lost."""
    short = min(given)
    resized = tuple(max(size, round(side * size / short)) for side in given)
    return Frame(given, resized, window(resized, (size, size)))


def window(
    resized: tuple[int, int], cut: tuple[int, int], draw: torch.Generator | None = None
) -> tuple[int, int, int, int]:
    """A window of size `cut`: anywhere, all places alike, or in the middle where nothing is drawn."""
    free = [a - b for a, b in zip(resized, cut, strict=True)]
    if draw is None:
        left, upper = (n // 2 for n in free)
    else:
        left, upper = (int(torch.randint(n + 1, (), generator=draw)) for n in free)
    return left, upper, left + cut[0], upper + cut[1]


def chance(probability: float, draw: torch.Generator | None) -> bool:
    """True with a probability; never where nothing is drawn."""
    return draw is not None and float(torch.rand((), generator=draw)) < probability
