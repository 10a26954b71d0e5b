"""Batches of a stream: each is a function of its number, and consecutive ones are read without a seek."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch.distributed
from torch.utils.data import Dataset, Sampler

from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.data.dataset import ImageDataset
from lumen.data.image_stream import ImageStream, StreamedImage
from lumen.data.index import ImageRecord
from lumen.data.loader import Loader, collate
from lumen.data.source import DataSource

SHARD_IMAGES = "shard_images"  # numbers of images that a worker has learnt, on their way to the loader


class StreamSampler(Sampler):
    """Numbers of the micro-batches of one rank: micro-batch t of all W ranks together is t*W ... t*W+W-1.

    Args:
        stream: Images.
        batch_size: Images of a micro-batch on one rank.
        num_batches: Micro-batches of all ranks.
        rank: Rank of this process.
        world_size: Number of ranks.

    Attributes:
        start: Micro-batches of this rank to skip; set before iteration to resume a run.
    """

    def __init__(self, stream: ImageStream, batch_size: int, num_batches: int, rank: int = 0, world_size: int = 1):
        self.stream, self.batch_size, self.num_batches = stream, batch_size, num_batches
        self.rank, self.world_size, self.start = rank, world_size, 0

    def order_settings(self) -> dict[str, int]:
        """Return everything that the order depends on, by the keys that checkpoints use."""
        stream, order = self.stream, self.stream.order
        settings = {"batch": self.batch_size, "seed": order.seed, "world": self.world_size}
        # Not called `batch`: an elastic run may change that one, and a batch of a stream is from one sequence.
        settings |= {"shards": len(stream.training), "streams": stream.num_sequences, "buffer": order.buffer}
        return settings | {"streamed batch": self.batch_size}

    def __len__(self) -> int:
        return len(range(self.rank, self.num_batches, self.world_size))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start * self.world_size + self.rank, self.num_batches, self.world_size))


class StreamDataset(Dataset):
    """Batches of a stream by number: batch g is from sequence g % S, of which it has the g // S-th images.

    Args:
        source: Data set whose training images are streamed.
        batch_size: Images of a batch.
        num_images: Images to read as evaluation sees them; None reads views of training.
    """

    def __init__(self, source: DataSource, batch_size: int, num_images: int | None = None):
        self.source, self.stream, self.batch_size, self.num_images = source, source.stream, batch_size, num_images
        self._iterators: dict[int, tuple[int, Iterator]] = {}  # open sequences, with the number of their next image

    def __getitem__(self, number: int) -> Batch | Mistake:
        """Return a batch. A mistake is returned as a value, which `Loader` raises."""
        try:
            images = self._take(*reversed(divmod(number, self.stream.num_sequences)))
            if self.num_images is not None:
                images = images[: self.num_images - number * self.batch_size]
            batch = self._transform(images)
        except Mistake as mistake:
            return mistake
        batch.extra[SHARD_IMAGES] = dict(self.stream.shard_images)
        return batch

    def _transform(self, images: list[StreamedImage]) -> Batch:
        source, contents = self.source, {id: encoded for id, encoded, _ in images}

        def read(record: ImageRecord) -> dict[str, Any]:
            return source.decode(record, contents[record.id])

        records = [ImageRecord(id) for id, _, _ in images]
        dataset = ImageDataset(records, read, source.transform, source.select_caption, source.augmentation)
        keys = [(i, epoch) if self.num_images is None else i for i, (_, _, epoch) in enumerate(images)]
        return collate([dataset[key] for key in keys])

    def _take(self, sequence: int, number: int) -> list[StreamedImage]:
        """Return the images of the `number`-th batch of a sequence."""
        start = number * self.batch_size
        position, images = self._iterators.pop(sequence, (start + 1, iter(())))
        if position > start:
            position, images = start, self.stream.iterate(sequence, start)
        batch = list(islice(images, start - position, start - position + self.batch_size))
        self._iterators[sequence] = start + self.batch_size, images
        return batch


class StreamLoader(Loader):
    """Loader of a stream, whose state tells which shards a resumed run passes over without reading them."""

    def _next(self, batches: Iterator[Any]) -> Batch | Mistake | None:
        batch = super()._next(batches)
        if isinstance(batch, Batch):
            self.sampler.stream.shard_images |= batch.extra.pop(SHARD_IMAGES)
        return batch

    def order_settings(self) -> dict[str, int]:
        """Return everything that the order of images depends on."""
        return self.sampler.order_settings()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the order depends on, and the numbers of images of shards; all ranks call this."""
        shard_images = self.sampler.stream.shard_images
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, shard_images)
            shard_images = {shard: number for part in parts for shard, number in part.items()}
        return self.order_settings() | {SHARD_IMAGES: dict(shard_images)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Verify that a checkpoint has the same order, and take over its numbers of images."""
        super().load_state_dict(state)
        self.sampler.stream.shard_images |= state.get(SHARD_IMAGES, {})
