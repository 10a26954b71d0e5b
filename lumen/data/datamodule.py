"""Data module of all data sets: batches of a data source in a reproducible order, on any number of ranks."""

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset, Sampler, Subset

from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.core.random import generator
from lumen.data.cache import CachedArray
from lumen.data.dataset import CachedDataset, ImageDataset, JoinedDataset, ViewDataset
from lumen.data.domains import verify_unseen
from lumen.data.index import ImageRecord
from lumen.data.loader import ATTEMPTS, WAIT_SECONDS, Loader, collate, collate_in_worker
from lumen.data.sampler import ResumableSampler
from lumen.data.source import DataSource, evenly_spaced
from lumen.data.stream_loader import StreamDataset, StreamLoader, StreamSampler


class DataModule(LightningDataModule):
    """Batches of a data source.

    Args:
        source: Files, captions and classes of the data set.
        unseen: Data set of the same classes that outputs are scored on as well, and that nothing is learnt from.

    Attributes:
        cached_dataset: Training images with cached outputs, in place of files, once the cache is filled.
    """

    cached_dataset: CachedDataset | None = None

    def __init__(self, source: DataSource, unseen: DataSource | None = None):
        super().__init__()
        self.source, self.loader_config = source, source.loader_config
        self.unseen = unseen and verify_unseen(source, unseen)

    @property
    def eval_sources(self) -> list[DataSource]:
        """Data sets that outputs are scored on."""
        return [self.source, *([self.unseen] if self.unseen else [])]

    # ---- datasets

    def dataset(self, split: str) -> ImageDataset:
        """Return the images of a split."""
        source = self.source
        return self._image_dataset(source, source.train_records() if split == "train" else source.records(split))

    def from_cache(self, arrays: dict[str, CachedArray], needs_images: bool) -> CachedDataset:
        """Return the training images with cached outputs.

        Args:
            arrays: Cached outputs by name.
            needs_images: Whether images are read as well.
        """
        dataset, (array, *_) = self.dataset("train"), arrays.values()
        if len(array.captions) != len(dataset):
            raise ValueError(f"{len(array.captions)} cached captions of {len(dataset)} images")
        return CachedDataset(dataset, array.captions, arrays, needs_images)

    def num_images(self, limit: int | None) -> int:
        """Return the number of training images, at most `limit`; of a stream it is the limit."""
        if limit is not None and self.source.streaming:
            return limit
        images = len(self.source.train_records())
        return images if limit is None else min(images, limit)

    def sample_records(self, num_images: int) -> list[ImageRecord]:
        """Return a random subset of the training images, the same on all ranks."""
        records = self.source.train_records()
        order = torch.randperm(len(records), generator=generator(self.loader_config.seed, "sample"))
        return [records[i] for i in order[:num_images].tolist()]

    # ---- loaders

    def train_dataloader(self) -> Loader:
        """Return the training images in the run's order, from the position that the trainer has reached."""
        if self.source.streaming:
            batches = self.loader_config.num_batches * self._rank_and_world_size()[1]
            return self._stream_loader(batches, self._processed_batches())
        config, dataset = self.loader_config, self.cached_dataset or self.dataset("train")
        rank, world_size = self._rank_and_world_size()
        sampler = ResumableSampler(len(dataset), config.batch_size, config.num_batches, config.seed, rank, world_size)
        sampler.start = self._processed_batches()
        return self._loader(dataset, sampler=sampler)

    def val_dataloader(self) -> Loader:
        """Return this rank's share of the validation images."""
        return self._spread_loader("val", self.loader_config.val_images)

    def test_dataloader(self) -> Loader:
        """Return this rank's share of the images that outputs are scored on; no batch mixes two data sets."""
        if self.unseen is None:
            return self._spread_loader(self.source.eval_split, self.loader_config.eval_images)
        datasets, batches, size = self._eval_datasets(), [], self.loader_config.batch_size
        rank, world_size = self._rank_and_world_size()
        for number, dataset in enumerate(datasets):
            share = [(number, index) for index in range(rank, len(dataset), world_size)]
            batches += [share[start : start + size] for start in range(0, len(share), size)]
        return self._loader(JoinedDataset(datasets), batches=batches)

    def sample_dataloader(self, num_images: int) -> Loader:
        """Return this rank's share of `sample_records`, or of the first images of a stream, without augmentation."""
        if self.source.streaming:
            return self._stream_loader(-(-num_images // self.loader_config.batch_size), num_images=num_images)
        dataset = self._image_dataset(self.source, self.sample_records(num_images))
        return self._loader(self._rank_share(dataset, range(len(dataset))))

    def views_dataloader(self, views: list[tuple[int, int]], batch_size: int) -> Loader:
        """Return given views of training images in order, each with all its captions in `extra`.

        Args:
            views: Pairs (image, view).
            batch_size: Views per batch.
        """
        return self._loader(ViewDataset(self.dataset("train"), views), batch_size=batch_size)

    # ---- batches

    def grid_batch(self, count: int = 4) -> Batch:
        """Return the fixed validation images of every sample grid."""
        dataset = self.dataset("val")
        return collate([dataset[i * len(dataset) // count] for i in range(min(count, len(dataset)))])

    def mismatched_batch(self, batch: Batch) -> Batch:
        """Return for each image of a test batch the next evaluation image, whatever the batch size."""
        for dataset, position in self._eval_positions:
            if batch.id[0] in position:
                return collate([dataset[(position[id] + 1) % len(dataset)] for id in batch.id])
        raise KeyError(f"{batch.id[0]} is no image that outputs are scored on")

    def find_eval_batches(self, ids: set[str], world_size: int = 1) -> Iterator[Batch]:
        """Yield the evaluation batches that hold any of these images, composed as a run on so many ranks composes them.

        The last bits of a generated image may depend on the other images of its batch.
        """
        size = self.loader_config.batch_size
        for dataset in self._eval_datasets():
            for rank in range(world_size):
                share = range(rank, len(dataset), world_size)
                for positions in (share[start : start + size] for start in range(0, len(share), size)):
                    if any(dataset.records[position].id in ids for position in positions):
                        batch = collate(dataset.__getitems__(list(positions)))
                        if isinstance(batch, Mistake):
                            raise batch
                        yield batch

    @cached_property
    def _eval_positions(self) -> list[tuple[ImageDataset, dict[str, int]]]:
        """Evaluation images by data set, with the position of each id."""
        datasets = self._eval_datasets()
        return [(dataset, {record.id: i for i, record in enumerate(dataset.records)}) for dataset in datasets]

    def _eval_datasets(self) -> list[ImageDataset]:
        """Return the images that outputs are scored on, by data set."""
        return [self._image_dataset(source, source.eval_records()) for source in self.eval_sources]

    def _image_dataset(self, source: DataSource, records: Sequence[ImageRecord]) -> ImageDataset:
        return ImageDataset(records, source.read, source.transform, source.select_caption, source.augmentation)

    def _processed_batches(self) -> int:
        """Return the micro-batches that the run has processed, which a checkpoint restores."""
        # Undocumented in Lightning: `fit_loop.epoch_loop.batch_progress`. Checked with lightning 2.6.6.
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed if self.trainer else 0

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _stream_loader(self, num_batches: int, start: int = 0, num_images: int | None = None) -> Loader:
        """Return this rank's share of the batches of a stream.

        Args:
            num_batches: Micro-batches of all ranks.
            start: Micro-batches of each rank to skip.
            num_images: Images to read as evaluation sees them; None reads views of training.
        """
        source, size = self.source, self.loader_config.batch_size
        sampler = StreamSampler(source.stream, size, num_batches, *self._rank_and_world_size())
        sampler.start = start
        return self._loader(StreamDataset(source, size, num_images), sampler=sampler, kind=StreamLoader)

    def _spread_loader(self, split: str, count: int) -> Loader:
        """Return this rank's share of `count` images, spread evenly over a split."""
        dataset = self.dataset(split)
        return self._loader(self._rank_share(dataset, evenly_spaced(len(dataset), count)))

    def _rank_share(self, dataset: ImageDataset, positions: Sequence[int]) -> Subset:
        """Return every world-size-th position. There is no padding: a repeated image would change a metric."""
        rank, world_size = self._rank_and_world_size()
        return Subset(dataset, positions[rank::world_size])

    def _loader(
        self,
        dataset: Dataset,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
        batches: list[list[Any]] | None = None,
        kind: type[Loader] = Loader,
    ) -> Loader:
        """Return a loader of batches of one size, of given batches of keys of the dataset, or of those of a stream."""
        config = self.loader_config
        order = {"batch_sampler": batches} if batches is not None else {"batch_size": batch_size or config.batch_size}
        if kind is StreamLoader:
            order = {"batch_size": None}
        loader = kind(
            dataset,
            **order,
            sampler=sampler,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate_in_worker if config.workers else collate,
            timeout=WAIT_SECONDS / ATTEMPTS if config.workers else 0,
            # A worker ends with its parent, which would be a server of Python's from 3.14 on.
            multiprocessing_context="fork" if config.workers and sys.platform == "linux" else None,
        )
        loader.converts_images = self.trainer is None
        return loader
