"""Datasets of training images: read from files, restricted to given views, or replaced by cached outputs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.core.random import generator
from lumen.data.cache import CachedArray
from lumen.data.index import ImageRecord
from lumen.data.loader import collate
from lumen.data.transforms import Augmentation, bernoulli


class ImageDataset(Dataset):
    """Split as samples: `dataset[i]` is image i for evaluation, `dataset[i, epoch]` is one random view of it.

    Args:
        records: Images of the split.
        read: Function of a record that returns its parts: image, mask, captions and further annotations.
        transform: Function of (parts, generator, flipped) that returns the parts as tensors; see `DataSource`.
        select_caption: Function of an image's captions that returns the one for evaluation.
        augmentation: Random choices of training.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        read: Callable[[ImageRecord], dict[str, Any]],
        transform: Callable[..., dict[str, Any]],
        select_caption: Callable[[Sequence[str]], str],
        augmentation: Augmentation,
    ):
        self.records, self.read, self.transform = records, read, transform
        self.select_caption, self.augmentation = select_caption, augmentation

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, None)
        record = self.records[index]
        parts = self.read(record)
        captions = parts.pop("captions")
        if epoch is None:
            return self._to_sample(record, self.transform(parts), self.select_caption(captions))
        _, crop_generator = self._draw(record, self.augmentation.crop_index(epoch), captions)
        caption, _ = self.choose_view(record, epoch, captions)
        return self._to_sample(record, self.transform(parts, crop_generator), caption)

    def __getitems__(self, keys: list) -> list[dict[str, Any]] | Mistake:
        """Return the samples of a batch. A mistake is returned as a value, which `Loader` raises."""
        try:
            return [self[key] for key in keys]
        except Mistake as mistake:
            return mistake

    def choose_view(self, record: ImageRecord, epoch: int, captions: Sequence[str]) -> tuple[str, int]:
        """Return the caption and the number of the view of an image in an epoch."""
        augmentation, (number, flip_generator) = self.augmentation, self._draw(record, epoch, captions)
        caption = captions[number] if captions else self.select_caption(captions)
        if augmentation.random_crop:
            return caption, augmentation.crop_index(epoch)
        return caption, int(bernoulli(augmentation.flip, flip_generator)) if 0 < augmentation.flip < 1 else 0

    def read_view(self, index: int, view: int) -> dict[str, Any]:
        """Return a view of an image as a sample, with all captions in `extra`."""
        record = self.records[index]
        parts = self.read(record)
        captions = parts.pop("captions")
        if self.augmentation.random_crop:
            tensors = self.transform(parts, self._draw(record, view, captions)[1])
        else:
            tensors = self.transform(parts, flipped=bool(view) or self.augmentation.flip == 1)
        return self._to_sample(record, tensors | {"captions": tuple(captions)}, "")

    def _draw(self, record: ImageRecord, epoch: int, captions: Sequence[str]) -> tuple[int, torch.Generator]:
        """Return the number of a random caption, and the generator in the state after that choice.

        The key is the image and the epoch, so that workers, batches and ranks do not change the choices.
        """
        keyed = generator(self.augmentation.seed, "augment", record.id, epoch)
        return int(torch.randint(max(1, len(captions)), (), generator=keyed)), keyed

    def _to_sample(self, record: ImageRecord, tensors: dict[str, Any], caption: str) -> dict[str, Any]:
        sample = {"image": tensors.pop("image"), "mask": tensors.pop("mask", None)}
        return sample | {"caption": caption, "id": record.id, "extra": tensors}


class JoinedDataset(Dataset):
    """Images of several datasets for evaluation: `dataset[k, i]` is image i of dataset k."""

    def __init__(self, datasets: list[ImageDataset]):
        self.datasets = datasets

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]] | Mistake:
        """Return the samples of a batch. A mistake is returned as a value, which `Loader` raises."""
        try:
            return [self.datasets[number][index] for number, index in keys]
        except Mistake as mistake:
            return mistake


class ViewDataset(Dataset):
    """Given views of images as samples, in a given order.

    Args:
        dataset: All images.
        views: Pairs (image, view).
    """

    def __init__(self, dataset: ImageDataset, views: list[tuple[int, int]]):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.views)

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]] | Mistake:
        """Return the samples of a batch. A mistake is returned as a value, which `Loader` raises."""
        try:
            return [self.dataset.read_view(*self.views[position]) for position in positions]
        except Mistake as mistake:
            return mistake


class CachedDataset(Dataset):
    """Training images with cached outputs of frozen networks.

    Args:
        dataset: All images.
        captions: Captions of each image whose record has none, such as those that were rendered with it.
        arrays: Cached outputs by name.
        needs_images: Whether images are read as well.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        captions: Sequence[Sequence[str]],
        arrays: dict[str, CachedArray],
        needs_images: bool,
    ):
        self.dataset, self.captions, self.arrays, self.needs_images = dataset, captions, arrays, needs_images

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | Mistake:
        """Return the batch of pairs (image, epoch). A mistake is returned as a value, which `Loader` raises."""
        records = [self.dataset.records[index] for index, _ in keys]
        chosen = [
            self.dataset.choose_view(record, epoch, record.captions or self.captions[index])
            for record, (index, epoch) in zip(records, keys, strict=True)
        ]
        positions = [(index, view) for (index, _), (_, view) in zip(keys, chosen, strict=True)]
        cached = {name: array.take(positions) for name, array in self.arrays.items()}
        if self.needs_images:
            batch = collate(self.dataset.__getitems__(keys))
            return batch if isinstance(batch, Mistake) else replace(batch, cached=cached)
        return Batch(None, [caption for caption, _ in chosen], [record.id for record in records], cached=cached)
