"""Computation of the cacheable outputs of a task's frozen networks, shard by shard, by any number of processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from lumen.core.console import announce
from lumen.core.errors import BadConfig, Mistake, RunBusy
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Batch, Task
from lumen.core.locks import lock_directory
from lumen.core.progress import Phase
from lumen.data.cache import CacheStore, format_bytes, shard_ranges
from lumen.training.cache_options import CacheOptions

ENCODE_BATCH_SIZE = 16  # images per batch where the last bits do not matter
Shard = tuple[int, int]  # view, range of images


@dataclass(frozen=True)
class Savings:
    """Savings of a run through the cache.

    Attributes:
        cached: Names of the cached outputs.
        images: Images times views.
        views: Views of each image.
        seconds: Time this run spent on filling the cache.
        saved_seconds: Estimated time that the run saves.
        images_read: Images that the run reads.
        reason: Why outputs are not cached, if so.
    """

    cached: list[str]
    images: int
    views: int | None
    seconds: float
    saved_seconds: float
    images_read: int
    reason: str | None

    def record(self) -> dict[str, Any]:
        """Return the content of cache.json."""
        return dict(vars(self))

    def __str__(self) -> str:
        origin = f"computed in {format_duration(self.seconds)}" if self.seconds else "cached already"
        return (
            f"{' and '.join(self.cached)} of {self.images} images {origin}; the run reads {self.images_read} images, "
            f"which saves about {format_duration(self.saved_seconds)}."
        )


class FeaturePrecomputer:
    """Cache entries of one run, one store per cacheable output of its task.

    Args:
        options: Cache settings of the run.
        common: Everything that all entries depend on.
        precision: Lightning's name for the precision of training. In fp32 entries are fp32, else fp16.

    Attributes:
        title: Words for what is computed, beside its progress.
        stores: Cache store by name of the output.
        keys: Names of the shards: for each view one per range of images.
    """

    title = "caching features"

    def __init__(
        self, options: CacheOptions, data: LightningDataModule, task: Task, common: dict[str, Any], precision: str
    ):
        self.options, self.data, self.task = options, data, task
        self.dtype = torch.float32 if precision == "32-true" else torch.float16
        # The last bits of a convolution depend on the batch size, though not on the other images. In fp32 batches are
        # as large as in training, so that a run from the cache equals an uncached run bit by bit.
        self.batch_size = options.batch_size if self.dtype == torch.float32 else ENCODE_BATCH_SIZE
        recipe = common | {"dtype": str(self.dtype), "together": self.batch_size}
        self.stores = {
            name: CacheStore(options.root, name, recipe | key)
            for name, key in task.cache_keys(options.arguments).items()
        }
        self.views, self.ranges = data.source.num_views(), shard_ranges(len(data.source.train_records()))
        self.keys: list[list[str]] = []
        self.reason: str | None = None
        self.fill_seconds, self.compute_seconds = 0.0, 0.0

    def select(self, num_images: int | None) -> list[str]:
        """Return the outputs that are worth caching and fit on the disk; print why others are not.

        Args:
            num_images: Images that the run reads; None fills the cache for other runs.

        Raises:
            BadConfig: The config says cache=always, and something cannot be cached.
        """
        images = self.ranges[-1].stop
        if not self.stores:
            return self._refuse([], "this task has no outputs that could be cached")
        if self.views is None:
            return self._refuse([], "every epoch crops anew; views=4 samples four crops per image, which can be cached")
        if self.options.mode == "auto" and num_images is not None and num_images < 2 * images * self.views:
            times = num_images / images / self.views
            return self._refuse([], f"this run reads an image {times:.2g} times; cache=always caches it for other runs")
        self.find_keys()
        costs = self._measure() if any(self.missing(name) for name in self.stores) else {}
        names, seconds, free = [], 0.0, self.options.free_bytes()
        for name, (row_bytes, row_seconds) in costs.items():
            count = sum(len(self.ranges[part]) for _, part in self.missing(name))
            if count and count * row_bytes > free:
                need = f"{name} of {count} images take {format_bytes(count * row_bytes)}, of {format_bytes(free)} free"
                return self._refuse(names, f"{need}; raise cache_gb, make room, or run `lumen cache prune`")
            free, seconds, names = free - count * row_bytes, seconds + count * row_seconds, [*names, name]
        if costs:
            need = sum(len(self.ranges[part]) * costs[name][0] for name in names for _, part in self.missing(name))
            print_cache(
                f"encoding {images} images ({format_bytes(need)}), about {format_duration(seconds)}; safe to interrupt."
            )
        return names or list(self.stores)

    def find_keys(self) -> None:
        """Hash the training images, which the names of all shards depend on."""
        contents = self.data.source.hash_contents(self.data.source.train_records(), self._contents_file)
        self.keys = [
            [hash_json([view, [contents[i] for i in span]]) for span in self.ranges] for view in range(self.views)
        ]

    def missing(self, name: str) -> list[Shard]:
        """Return the shards of an output that are not cached."""
        shards = [(view, part) for view, keys in enumerate(self.keys) for part in range(len(keys))]
        with ThreadPoolExecutor() as pool:  # the first time each is hashed, which releases the GIL
            exist = list(pool.map(self.stores[name].has, map(self._key, shards)))
        return [shard for shard, exists in zip(shards, exist, strict=True) if not exists]

    def fill(self, names: list[str], start: float = 0.0) -> None:
        """Compute all missing shards. Several processes share the work, and each waits for the others.

        Args:
            start: Part of the data set to begin with, from 0 to 1.
        """
        pending = sorted({shard for name in names for shard in self.missing(name)})
        first, images = int(start * len(pending)), sum(len(self.ranges[part]) for _, part in pending)
        pending = pending[first:] + pending[:first]
        with Phase(self.title, images, "images", is_shown=start == 0) as phase:
            while pending:
                busy = []
                for shard in pending:
                    done = phase.done + len(self.ranges[shard[1]])
                    try:
                        with lock_directory(self.options.root / "locks", self._key(shard)):
                            self._compute(names, shard, phase)
                        phase.update(done)
                    except RunBusy:
                        busy.append(shard)
                if len(busy) == len(pending):
                    time.sleep(1)
                pending = busy

    def savings(self, names: list[str], num_images: int) -> Savings:
        """Estimate the time that a run saves, from the time that the rows took to compute."""
        images, row_seconds = self.ranges[-1].stop * (self.views or 1), 0.0
        for name in names:
            shape = {"seconds": int | float}
            facts = [self.stores[name].metadata(key, shape) for keys in self.keys for key in keys]
            row_seconds += sum(fact["seconds"] for fact in facts) / images
        saved = num_images * row_seconds - self.compute_seconds
        return Savings(names, images, self.views, self.fill_seconds, saved, num_images, self.reason)

    def _compute(self, names: list[str], shard: Shard, phase: Phase) -> None:
        """Compute the outputs of one shard that are missing, given those that are cached.

        Args:
            phase: Progress of all shards.
        """
        view, part = shard
        key, start = self._key(shard), time.perf_counter()
        names = [name for name in names if not self.stores[name].has(key)]
        cached = {name: store.read(key) for name, store in self.stores.items() if store.has(key)}
        rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
        seconds, captions = dict.fromkeys(names, 0.0), []
        images = [*self.ranges[part]]
        # The last batch is filled up with images of the shard, so that all batches have the same size.
        positions = [i % len(images) for i in range(-(-len(images) // self.batch_size) * self.batch_size)]
        loader = self.data.views_dataloader([(images[i], view) for i in positions], self.batch_size) if names else ()
        for number, batch in enumerate(loader):
            these = positions[number * self.batch_size : (number + 1) * self.batch_size]
            batch = batch.to(self.task.device)
            captions += batch.extra["captions"]
            batch.cached = {name: torch.from_numpy(array[these]).to(self.task.device) for name, array in cached.items()}
            for name in names:
                begin = time.perf_counter()
                rows[name].append(self._encode(name, batch))
                seconds[name] += time.perf_counter() - begin
            phase.advance(len(set(these) - set(positions[: number * self.batch_size])))
        for name in names:
            facts = {"seconds": seconds[name], "captions": captions[: len(images)]}
            self.stores[name].write(key, np.concatenate(rows[name])[: len(images)], facts)
        self.fill_seconds += time.perf_counter() - start
        self.compute_seconds += sum(seconds.values())

    @torch.no_grad()
    def _encode(self, name: str, batch: Batch) -> np.ndarray:
        """Return one output of a batch, and add it to the batch for the outputs after it."""
        rows = self.task.encode(name, batch)
        rows = batch.cached[name] = rows.to(self.dtype) if rows.is_floating_point() else rows
        if not bool(rows.isfinite().all()):
            raise Mistake(
                f"{name} of {batch.id[0]} or of an image beside it are not finite in {self.dtype}; set cache=never."
            )
        return rows.cpu().numpy()

    def _measure(self) -> dict[str, tuple[int, float]]:
        """Return bytes and seconds per image of each output, from one batch."""
        images = [(image, 0) for image in self.ranges[0][: self.batch_size]]
        batch = next(iter(self.data.views_dataloader(images, self.batch_size))).to(self.task.device)
        costs = {}
        for name in self.stores:
            start = time.perf_counter()
            rows = self._encode(name, batch)
            costs[name] = rows[0].nbytes, (time.perf_counter() - start) / len(rows)
        return costs

    @property
    def _contents_file(self) -> Path:
        return self.options.root / "contents.json"

    def _key(self, shard: Shard) -> str:
        return self.keys[shard[0]][shard[1]]

    def _refuse(self, names: list[str], reason: str) -> list[str]:
        if self.options.mode == "always":
            raise BadConfig(f"cache=always is not possible: {reason}.")
        self.reason = reason
        print_cache(f"{' and '.join(names) or 'nothing'} cached: {reason}.")
        return names


def print_cache(message: str) -> None:
    """Print a message about the cache."""
    announce(f"cache: {message}")


def format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if abs(seconds) < 100 else f"{seconds / 60:.0f} minutes"
