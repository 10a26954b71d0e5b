"""Cache of a task's frozen networks: statistics and per-image outputs, filled before training starts."""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lumen.core.files import write_json
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Task
from lumen.data.cache import CachedArray, CacheStore
from lumen.training.cache_options import CacheOptions
from lumen.training.feature_precomputer import FeaturePrecomputer, print_cache
from lumen.training.synthetic_precomputer import SyntheticPrecomputer


class PrecomputeCallback(Callback):
    """Before training: fit statistics, and compute the frozen outputs that training reads more than once.

    Args:
        options: Cache settings of the run.
        report: File that says what the cache saved, as JSON.
    """

    def __init__(self, options: CacheOptions, report: Path):
        self.options, self.report = options, report
        self.stores: list[CacheStore] = []  # that training reads, and that are not pruned until it ends

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        options, data = self.options, trainer.datamodule
        if options.mode == "never" and not task.precomputed_keys():
            return
        if options.mode != "never":
            task.fit_statistics(data, CachedStatistics(options, data, task, trainer))
        num_images = options.num_images * trainer.world_size
        precomputer = build_precomputer(options, data, task, trainer.precision)
        names = precomputer.select(num_images) if trainer.is_global_zero else []
        names, precomputer.keys = trainer.strategy.broadcast((names, precomputer.keys))
        if names:
            precomputer.fill(names, trainer.global_rank / trainer.world_size)
            self.stores = [precomputer.stores[name] for name in names]
            arrays = {store.kind: CachedArray(store, precomputer.keys) for store in self.stores}
            data.cached_dataset = data.from_cache(arrays, task.needs_images(names))
        if trainer.is_global_zero:
            savings = precomputer.savings(names, num_images)
            write_json(self.report, savings.record())
            if names:
                print_cache(str(savings))

    def on_fit_end(self, trainer: Trainer, task: Task) -> None:
        self.stores = []


class CachedStatistics:
    """Statistics of training images, cached for every run that would compute the same.

    The number of processes is no part of the key: sums in float64 yield the same axes for one process and eight.

    Args:
        trainer: Of a run of several processes; all take what the first one finds.
    """

    def __init__(self, options: CacheOptions, data: LightningDataModule, task: Task, trainer: Trainer | None = None):
        self.options, self.data, self.trainer = options, data, trainer
        self.common = common_key(options, data, task)

    def __call__(self, key: dict[str, Any], num_images: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return cached statistics of so many images, or compute and cache them."""
        options, source = self.options, self.data.source
        recipe = {"seed": options.seed, "together": options.batch_size, "dtype": str(torch.float64)}
        store = CacheStore(options.root, "features", self.common | key | recipe)
        records = self.data.sample_records(num_images)
        contents = source.hash_contents(records, options.root / "contents.json")
        shard = hash_json([[record.id for record in records], contents])
        exists = store.has(shard)
        if self.trainer.strategy.broadcast(exists) if self.trainer else exists:
            store.touch()
            return torch.from_numpy(store.read(shard)[0].copy())
        start, statistics = time.perf_counter(), compute()
        first = self.trainer is None or self.trainer.is_global_zero
        if first and statistics.nbytes < options.free_bytes():
            store.write(shard, statistics.cpu().numpy()[None], {"seconds": time.perf_counter() - start})
        return statistics


def build_precomputer(
    options: CacheOptions, data: LightningDataModule, task: Task, precision: str
) -> FeaturePrecomputer:
    """Return what computes the cache entries of a task: generated images if it learns from some, else features."""
    common = common_key(options, data, task)
    if task.precomputed_keys():
        return SyntheticPrecomputer(options, data, task, common)
    return FeaturePrecomputer(options, data, task, common, precision)


def common_key(options: CacheOptions, data: LightningDataModule, task: Task) -> dict[str, Any]:
    """Return everything that all cache entries of a run depend on."""
    key = {"look": data.source.cache_key(), "device": task.device.type, "lumen": version("lumen")}
    return key | ({"task": options.task} if options.task else {})
