"""Scenes drawn once and kept: a recipe looks at each of them many times."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lumen.files import beside, write
from lumen.scenes.render import render
from lumen.scenes.world import seeds


def drawn(work: Path, split: str, count: int, size: int) -> tuple[np.ndarray, list[list[str]]]:
    """The images (count, size, size, 3), uint8, and captions of a split's first scenes, drawn if not yet there."""
    pictures = work / f"{split}-{count}-{size}.npy"
    words = pictures.with_suffix(".json")
    if not (pictures.exists() and words.exists()):
        print(f"drawing {count} scenes of {split} into {work}", flush=True)
        said = []
        # spawned, because a fork of a process whose torch has started its threads can hang
        pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"))
        with beside(pictures) as draft, pool:
            images = np.empty((count, size, size, 3), np.uint8)
            jobs = pool.map(_draw, seeds(split, count), [size] * count, chunksize=64)
            for index, (image, captions) in enumerate(jobs):
                images[index] = image
                said.append(captions)
            with open(draft, "wb") as file:  # given a name, numpy would add its own ending to it
                np.save(file, images)
        write(words, json.dumps(said))
    return np.load(pictures, mmap_mode="r"), json.loads(words.read_text())


def _draw(seed: int, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    scene = render(seed, size)
    return scene.image, scene.captions
