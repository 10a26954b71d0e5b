"""Data set of scenes that are rendered once and stored, because a recipe trains on each of them many times."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from lumen.core.files import atomic_path, write
from lumen.core.lifetime import current_thread, end_with_parent
from lumen.scenes.render import render
from lumen.scenes.world import split_seeds


@dataclass(frozen=True)
class RenderedScenes:
    """First scenes of a split in the order of their seeds. The arrays are memory-mapped files.

    Attributes:
        depth: Metres along the optical axis, inf in the sky.
        captions: Captions of each scene.
        graphs: Scene graphs.
    """

    image: UInt8[np.ndarray, "n H W 3"]
    semantic: UInt8[np.ndarray, "n H W"]
    instance: UInt8[np.ndarray, "n H W"]
    depth: Float32[np.ndarray, "n H W"]
    captions: list[list[str]]
    graphs: list[dict[str, Any]]


PLANES = {"image": np.uint8, "semantic": np.uint8, "instance": np.uint8, "depth": np.float32}


def render_dataset(work: Path, split: str, count: int, size: int) -> RenderedScenes:
    """Return the first `count` scenes of a split, rendered unless `work` has them.

    Args:
        work: Directory of the stored scenes.
        size: Side of an image in pixels.
    """
    directory = work / f"{split}-{count}-{size}"
    words_file = directory / "words.json"  # written last: if it exists, all other files are complete
    if not words_file.exists():
        print(f"rendering {count} scenes of {split} into {work}", flush=True)
        planes, words = _render_all(split, count, size)
        for name, plane in planes.items():
            with atomic_path(directory / f"{name}.npy") as path, open(path, "wb") as file:
                np.save(file, plane)  # to a file object, because numpy would append its own suffix to a path
        write(words_file, json.dumps(words))
    captions, graphs = zip(*json.loads(words_file.read_text(encoding="utf-8")), strict=True)
    return RenderedScenes(
        **{name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in PLANES},
        captions=list(captions),
        graphs=list(graphs),
    )


def _render_all(split: str, count: int, size: int) -> tuple[dict[str, np.ndarray], list[tuple]]:
    shapes = {name: (count, size, size, 3) if name == "image" else (count, size, size) for name in PLANES}
    planes = {name: np.empty(shapes[name], dtype) for name, dtype in PLANES.items()}
    words = []
    # Spawned, because a fork of a process whose torch has started its threads can hang.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), end_with_parent, current_thread()) as pool:
        jobs = pool.map(_render_planes, split_seeds(split, count), [size] * count, chunksize=64)
        for index, (scene_planes, captions, graph) in enumerate(jobs):
            for name, plane in scene_planes.items():
                planes[name][index] = plane
            words.append((captions, graph))
    return planes, words


def _render_planes(seed: int, size: int) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, Any]]:
    scene = render(seed, size)
    return {name: getattr(scene, name) for name in PLANES}, scene.captions, scene.graph
