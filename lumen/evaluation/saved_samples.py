"""Saved samples: generated images of an evaluation as PNG files, which a further evaluation reads."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lumen.core.console import announce
from lumen.core.errors import BadFile
from lumen.core.files import atomic_path
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Task
from lumen.core.readers import explain_damage
from lumen.core.tensor_hashing import fingerprint, hash_tree
from lumen.core.visualize import save_png

FOLDER_NAME = "samples"
HASH_KEY = "sha256"  # of the text in a file: the hash of its pixels, its image and its number
COMPRESSION = 1  # of PNG: a quarter of the default's time, a tenth more bytes
MAX_LETTERS = 80  # of an image's id in the name of a folder
NUM_THREADS = 4  # compression and decompression release the GIL
REMEDY = "it is sampled again"


@dataclass(frozen=True)
class SampleFolders:
    """Folders of the samples of a run.

    Attributes:
        run: Run directory.
        shared: Directory of reference rows that all runs share.
        is_saving: Whether samples that are missing are written.
    """

    run: Path
    shared: Path
    is_saving: bool = False

    def of_row(self, task: Task, row: str, rules: dict[str, Any]) -> "SavedSamples | None":
        """Return the samples of a row; None if the task generates no images, or the row no random ones."""
        if task.output_kind != "images" or task.num_outputs(row, 2) < 2:
            return None
        return SavedSamples(self.shared if row in task.shared_rows else self.run, row, rules, self.is_saving)


class SavedSamples:
    """Generated images of one row: a folder per image, with a PNG file per sample.

    The folder of the row is named by everything that its images depend on, so others are never read. A file that was
    cut, changed or renamed does not equal its hash, and the images of its batch are sampled again.

    Args:
        root: Folder of the samples of a run, or of those that all runs share.
        row: Row of the evaluation.
        rules: Everything that the samples depend on besides what was learnt.
        is_saving: Whether samples that are missing are written.

    Attributes:
        directory: Folder of the row; None until `locate`.
        num_images: Images of this process whose samples were read.
    """

    def __init__(self, root: Path, row: str, rules: dict[str, Any], is_saving: bool):
        self.root, self.row, self.rules, self.is_saving = root / FOLDER_NAME, row, rules, is_saving
        self.directory: Path | None = None
        self.num_images = 0

    def locate(self, task: Task) -> None:
        """Find the folder of what a task generates with its present weights; there is nothing to find without any."""
        if not self.is_saving and not self.root.is_dir():
            return
        key = self.rules | {"row": self.row}
        if self.row not in task.shared_rows:
            others = {name: network for name, network in task.frozen_networks.items() if name not in task.identity}
            frozen = task.identity | {name: fingerprint(network) for name, network in others.items()}
            key |= {"learned": hash_tree(task.state_dict()), "frozen": frozen}
        self.directory = self.root / f"{self.row}-{hash_json(key)}"

    def is_complete(self, task: Task, num_images: int) -> bool:
        """Return whether so many images have samples, or none are to be saved."""
        if not self.is_saving:
            return True
        self.locate(task)
        return self.directory.is_dir() and sum(1 for _ in self.directory.iterdir()) >= num_images

    def report(self, num_processes: int) -> None:
        """Print how many images had samples, and where samples lie now."""
        if self.num_images:
            who = f" by the first of {num_processes} processes" if num_processes > 1 else ""
            announce(f"{self.row}: the samples of {self.num_images} images were read from {self.directory}{who}")
        elif self.is_saving:
            announce(f"{self.row}: samples are saved in {self.directory}")

    def lacks(self, ids: list[str], count: int) -> bool:
        """Return whether samples are to be saved, and some of the first `count` of these images are not there."""
        return self.is_saving and not all(self._path(i, k).exists() for i, k in product(ids, range(count)))

    def load(self, ids: list[str], count: int) -> UInt8[Tensor, "b n 3 H W"] | None:
        """Return the samples of a batch; None unless all are there and intact."""
        if self.directory is None or not self.directory.is_dir():
            return None
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            images = list(pool.map(self._read, *zip(*product(ids, range(count)), strict=True)))
        if any(image is None for image in images):
            return None
        self.num_images += len(ids)
        return torch.stack(images).unflatten(0, (len(ids), count))

    def save(self, ids: list[str], images: UInt8[Tensor, "b n 3 H W"]) -> None:
        """Write the samples of a batch, if samples are saved."""
        if not self.is_saving:
            return
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            keys = product(ids, range(images.shape[1]))
            list(pool.map(self._write, *zip(*keys, strict=True), images.flatten(0, 1).cpu()))

    def _path(self, image_id: str, number: int) -> Path:
        name = re.sub(r"[^\w-]", "_", image_id, flags=re.ASCII)[:MAX_LETTERS]
        return self.directory / f"{name}-{hash_json(image_id)[:8]}" / f"{number}.png"

    def _read(self, image_id: str, number: int) -> UInt8[Tensor, "3 H W"] | None:
        """Return a sample; None if it is missing. That it is damaged, and sampled again, is printed."""
        path = self._path(image_id, number)
        if not path.exists():
            return None
        try:
            with explain_damage(path, REMEDY), Image.open(path) as file:
                pixels = np.array(file)
                if file.info.get(HASH_KEY) != _hash(pixels, image_id, number):
                    raise ValueError("it is not what was written there")
        except BadFile as damage:
            print(damage, flush=True)
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _write(self, image_id: str, number: int, image: UInt8[Tensor, "3 H W"]) -> None:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        text = {HASH_KEY: _hash(pixels, image_id, number)}
        with atomic_path(self._path(image_id, number)) as draft:
            save_png(Image.fromarray(pixels), draft, text, COMPRESSION)


def _hash(pixels: np.ndarray, image_id: str, number: int) -> str:
    return hashlib.sha256(pixels.tobytes() + f"{pixels.shape} {image_id} {number}".encode()).hexdigest()
