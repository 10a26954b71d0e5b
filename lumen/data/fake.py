"""Draws the images and label maps of the tiny trees that `fake` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_pair(image: Path, mask: Path, ids: list[int], size: tuple[int, int], seed: int) -> None:
    """A photo and its label map of size (width, height): a grid of patches, each its own id and colour."""
    rng = np.random.default_rng(seed)
    height, width = size[1], size[0]
    cell = rng.integers(len(ids), size=(4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    which = cell[rows][:, columns]
    # A colour per id, alike in every picture of the tree, and a little grain so that no two pixels agree.
    colours = np.random.default_rng(0).integers(20, 236, size=(len(ids), 3))
    pixels = colours[which] + rng.integers(-8, 9, size=(height, width, 3))
    save(image, pixels.astype(np.uint8))
    save(mask, np.array(ids, np.uint8)[which])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
