"""Streams: images of shards that are read from front to back, in an order that a position restores."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, count, islice

import numpy as np

from lumen.core.errors import BadSample, DatasetMissing
from lumen.core.progress import Phase
from lumen.data.encoded import EncodedImage
from lumen.data.index import ImageRecord
from lumen.data.integrity import IntegrityReport
from lumen.data.loader_config import LoaderConfig

StreamedImage = tuple[str, EncodedImage, int]  # id, content, and number of the pass
IDENTIFYING_IMAGES = 64  # that the fingerprint of a stream holds, and that are held out at least


@dataclass(frozen=True)
class StreamOrder:
    """Settings of the order of a stream.

    Attributes:
        sequences: Sequences that the shards are dealt to; there are at most as many as shards.
        buffer: Images of a shard that are shuffled together.
        seed: Seed of the order.
    """

    sequences: int
    buffer: int
    seed: int


class ImageStream:
    """Images of shards that are only read from front to back.

    The training shards are dealt to a fixed number of sequences. Each passes over its shards without end, in an order
    keyed by the pass, and shuffles the images of a shard, so many together as a buffer holds. So image i of a
    sequence depends on the seed, the list of shards and i alone, and a pass holds each image exactly once.

    Args:
        title: Words for the stream, such as `data.shards=DIR`.
        shards: Names of all shards.
        training: Numbers of the shards to learn from.
        read_shard: Function of the number of a shard that yields ids and contents of its images.
        read_held_out: Function that yields ids and contents of the images that are held out.
        order: Settings of the order.
        num_held_out: Images that are held out, in memory.

    Attributes:
        shard_images: Number of images of each shard that has been read to its end, which a reader may then pass over.
    """

    def __init__(
        self,
        title: str,
        shards: Sequence[str],
        training: Sequence[int],
        read_shard: Callable[[int], Iterator[tuple[str, EncodedImage]]],
        read_held_out: Callable[[], Iterator[tuple[str, EncodedImage]]],
        order: StreamOrder,
        num_held_out: int,
    ):
        self.title, self.shards, self.training, self.order = title, list(shards), list(training), order
        self.read_shard, self.read_held_out, self.num_held_out = read_shard, read_held_out, num_held_out
        self.num_sequences = min(order.sequences, len(self.training))
        self.shard_images: dict[int, int] = {}

    # ---- images that are held out

    @cached_property
    def held_out(self) -> dict[str, EncodedImage]:
        """Content of the images that are held out, by id.

        Raises:
            DatasetMissing: There are fewer than two.
        """
        images = dict(islice(self.read_held_out(), self.num_held_out))
        if len(images) < 2:
            number = "one image" if images else "no image"
            raise DatasetMissing(f"{self.title}: the shard that is held out has {number}, and two are needed.")
        return images

    def records(self, split: str) -> list[ImageRecord]:
        """Return the images that are held out.

        Raises:
            DatasetMissing: The training images are asked for.
        """
        if split == "train":
            raise DatasetMissing(
                f"{self.title}: a stream has no list of its training images, which this command or task needs; leave "
                "data.streaming out, with the data on a disk."
            )
        return [ImageRecord(id) for id in self.held_out]

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the list of shards and with the first images that are held out."""
        first = [(id, encoded.hash()) for id, encoded in islice(self.held_out.items(), IDENTIFYING_IMAGES)]
        state = repr((self.shards, self.training, first))
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    # ---- training images

    def iterate(self, sequence: int, start: int = 0) -> Iterator[StreamedImage]:
        """Yield the images of a sequence, from image `start` on.

        Raises:
            BadSample: A shard cannot be read.
            DatasetMissing: No shard of the sequence holds an image.
        """
        shards = self.training[sequence :: self.num_sequences]
        for epoch in count():
            images = 0
            for shard in self._shuffle(shards, "shards", sequence, epoch):
                if (number := self.shard_images.get(shard, start + 1)) > start:
                    number = 0
                    for id, encoded in self._iterate_shard(shard, epoch):
                        number += 1
                        if number > start:
                            yield id, encoded, epoch
                    self.shard_images[shard] = number
                start, images = max(0, start - number), images + number
            if not images:
                raise DatasetMissing(
                    f"{self.title}: {len(shards):,} of {len(self.training):,} shards are read in turn, of which "
                    f"{self.shards[shards[0]]} is one, and none of them holds an image; set fewer data.streams, or "
                    "correct the list of shards."
                )

    def _iterate_shard(self, shard: int, epoch: int) -> Iterator[tuple[str, EncodedImage]]:
        images = self.read_shard(shard)
        for number in count():
            if not (block := list(islice(images, self.order.buffer))):
                return
            yield from self._shuffle(block, "buffer", shard, epoch, number)

    def _shuffle(self, items: Sequence, *key: int | str) -> Iterable:
        from lumen.core.random import generator, torch

        order = torch.randperm(len(items), generator=generator(self.order.seed, *key))
        return [items[i] for i in order.tolist()]

    # ---- check

    def check(self, name: str, place: str, table: np.ndarray | None) -> IntegrityReport:
        """Read all shards, decode every image, and report all faults.

        Args:
            table: Class of each label id; None for images without label maps.
        """
        report, state = IntegrityReport(name, place), hashlib.sha256()
        readers = {"val": [self.read_held_out], "train": [partial(self.read_shard, shard) for shard in self.training]}
        with Phase("checking", 0, "images", stream=sys.stderr, leaves_line=False) as phase:
            for split, functions in readers.items():
                counts = report.counts[split] = {"image": 0, "captions": 0}
                for id, encoded in chain.from_iterable(_report_faults(read, report.problems) for read in functions):
                    counts["image"] += 1
                    state.update(f"{id} {encoded.hash()}\n".encode())
                    phase.advance()
                    try:
                        counts["captions"] += len(encoded.decode(f"{id} of {name}", table)["captions"])
                    except BadSample as error:
                        report.problems.append(str(error))
        report.hash = state.hexdigest()[:16]
        return report


def _report_faults(read: Callable[[], Iterator], problems: list[str]) -> Iterator[tuple[str, EncodedImage]]:
    """Yield the images of a shard up to one that cannot be read, which is added to the problems."""
    try:
        yield from read()
    except BadSample as error:
        problems.append(str(error))


def num_held_out(loader_config: LoaderConfig) -> int:
    """Return the images of a stream that are held out: as many as a run validates with or is scored on."""
    return max(loader_config.val_images, loader_config.eval_images, IDENTIFYING_IMAGES)
