"""Scenes drawn once and kept: a recipe looks at each of them many times."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from lumen.core.files import beside, write
from lumen.scenes.render import render
from lumen.scenes.world import seeds


@dataclass(frozen=True)
class Drawn:
    """A split's first scenes, in the order of their seeds; the arrays stay on the disk until they are looked at."""

    image: UInt8[np.ndarray, "n H W 3"]
    semantic: UInt8[np.ndarray, "n H W"]
    instance: UInt8[np.ndarray, "n H W"]
    depth: Float32[np.ndarray, "n H W"]  # metres along the optical axis, inf in the sky
    captions: list[list[str]]
    graphs: list[dict[str, Any]]


PLANES = {"image": np.uint8, "semantic": np.uint8, "instance": np.uint8, "depth": np.float32}


def drawn(work: Path, split: str, count: int, size: int) -> Drawn:
    """The first `count` scenes of a split, `size` pixels wide and high, drawn if they are not there yet."""
    folder = work / f"{split}-{count}-{size}"
    words = folder / "words.json"  # written last: where it is, the rest is whole
    if not words.exists():
        print(f"drawing {count} scenes of {split} into {work}", flush=True)
        shapes = {name: (count, size, size, 3) if name == "image" else (count, size, size) for name in PLANES}
        planes = {name: np.empty(shapes[name], kind) for name, kind in PLANES.items()}
        said = []
        # spawned, because a fork of a process whose torch has started its threads can hang
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            jobs = pool.map(_draw, seeds(split, count), [size] * count, chunksize=64)
            for index, (drawing, captions, graph) in enumerate(jobs):
                for name, plane in drawing.items():
                    planes[name][index] = plane
                said.append((captions, graph))
        for name, plane in planes.items():
            with beside(folder / f"{name}.npy") as draft, open(draft, "wb") as file:
                np.save(file, plane)  # given a name instead, numpy would add its own ending to it
        write(words, json.dumps(said))
    captions, graphs = zip(*json.loads(words.read_text()), strict=True)
    return Drawn(
        **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PLANES},
        captions=list(captions),
        graphs=list(graphs),
    )


def _draw(seed: int, size: int) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, Any]]:
    scene = render(seed, size)
    return {name: getattr(scene, name) for name in PLANES}, scene.captions, scene.graph
