"""Generation of the inputs that a task needs before its training starts, shard by shard, by any number of processes."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Task
from lumen.data.cache import CacheStore, format_bytes
from lumen.training.cache_options import CacheOptions
from lumen.training.feature_precomputer import (
    ENCODE_BATCH_SIZE,
    FeaturePrecomputer,
    Savings,
    format_duration,
    print_cache,
)


class SyntheticPrecomputer(FeaturePrecomputer):
    """Cache entries of the images that a task has generated, one store per set.

    They are computed whatever the config says about the cache, in batches of one size, and in bytes. So runs of any
    task, seed, batch size and precision share them.

    Args:
        common: Everything that all entries depend on.
    """

    title = "generating images"

    def __init__(self, options: CacheOptions, data: LightningDataModule, task: Task, common: dict[str, Any]):
        super().__init__(options, data, task, common, "32-true")
        self.dtype, self.batch_size = torch.float32, ENCODE_BATCH_SIZE
        shared = {key: value for key, value in common.items() if key != "task"} | {"together": ENCODE_BATCH_SIZE}
        self.stores = {
            name: CacheStore(options.root, name, shared | key) for name, key in task.precomputed_keys().items()
        }

    def select(self, num_images: int | None) -> list[str]:
        """Return all sets, and print what it takes to generate those that are missing.

        Raises:
            BadConfig: Every epoch crops images anew, or the sets do not fit on the disk.
        """
        if self.views is None:
            raise BadConfig(
                f"{self.data.source.name} crops its images anew in every epoch, so no image can be generated for a "
                "crop before training; set views=1 or more crops of each image."
            )
        self.find_keys()
        count = sum(len(self.ranges[part]) for name in self.stores for _, part in self.missing(name))
        if count:
            row_bytes, row_seconds = self._measure_row()
            need, free = count * row_bytes, self.options.free_bytes()
            if need > free:
                raise BadConfig(
                    f"{count:,} generated images take {format_bytes(need)}, of {format_bytes(free)} free in "
                    f"{self.options.root}; raise cache_gb, make room, or run `lumen cache prune`."
                )
            print_cache(
                f"generating {count:,} images ({format_bytes(need)}), about {format_duration(count * row_seconds)}; "
                "safe to interrupt."
            )
        return list(self.stores)

    def savings(self, names: list[str], num_images: int) -> "GeneratedImages":
        """Return what was generated."""
        images = self.ranges[-1].stop * (self.views or 1)
        return GeneratedImages(names, images, self.views, self.fill_seconds, 0.0, num_images, None)

    def _measure_row(self) -> tuple[int, float]:
        """Return bytes and seconds of one image, from one batch."""
        images = [(image, 0) for image in self.ranges[0][: self.batch_size]]
        batch = next(iter(self.data.views_dataloader(images, self.batch_size))).to(self.task.device)
        start = time.perf_counter()
        rows = self._encode(next(iter(self.stores)), batch)
        return rows[0].nbytes, (time.perf_counter() - start) / len(rows)


class GeneratedImages(Savings):
    """Generated images of a run."""

    def __str__(self) -> str:
        origin = f"generated in {format_duration(self.seconds)}" if self.seconds else "generated already"
        sets = f"{len(self.cached)} sets of " if len(self.cached) > 1 else ""
        return f"{sets}{self.images:,} images {origin}."
