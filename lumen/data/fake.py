"""Fake data: images, label maps and JSON files of the tiny trees that every data set writes for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_pair(image: Path, mask: Path, ids: list[int], size: tuple[int, int], seed: int) -> None:
    """Write an image and its label map: a grid of 4 x 4 patches, each with one id and the colour of that id.

    Args:
        image: File of the image.
        mask: File of the label map.
        ids: Label ids to choose from.
        size: (width, height) in pixels.
        seed: Seed of the patches.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    patches = rng.integers(len(ids), size=(4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    indices = patches[rows][:, columns]
    # The colour of an id is the same in all images of the tree; the noise makes all pixels differ.
    colours = np.random.default_rng(0).integers(20, 236, size=(len(ids), 3))
    pixels = colours[indices] + rng.integers(-8, 9, size=(height, width, 3))
    save_image(image, pixels.astype(np.uint8))
    save_image(mask, np.array(ids, np.uint8)[indices])


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
