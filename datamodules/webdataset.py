"""Shards of a WebDataset: tar archives with an image, its caption and perhaps its label map under one name."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from lumen.core.errors import BadConfig, DatasetMissing
from lumen.core.ranges import Range, Share
from lumen.core.registry import datamodules
from lumen.data.encoded import EncodedImage, check_images, table_of
from lumen.data.image_stream import ImageStream, StreamOrder, num_held_out
from lumen.data.index import ImageRecord
from lumen.data.integrity import IntegrityReport
from lumen.data.photos import hold_out
from lumen.data.shard_reader import read_shard
from lumen.data.shards import ShardIndex, list_shards, shard_name, shard_sizes
from lumen.data.source import DataSource, LoaderConfig

FAKE_NAMES = (("0000", "0001", "0002", "0003", "0004"), ("0000", "0001", "0002", "0005"))  # by shard


@datamodules.register
class WebDataset(DataSource):
    """Tar archives, each with NAME.jpg or NAME.png, and NAME.txt or NAME.json with the caption.

    The headers of local shards are read once; then any image is read at once, so the order of training is the same as
    that of other data sets. Either way a run resumes exactly: nothing is skipped, and nothing repeats.

    Args:
        shards: Folders of .tar files, or paths, which may hold a range such as part-{000..099}.tar; where they are
            streamed also addresses that begin with https:, http: or file:.
        labels: End of the names of label maps, such as seg.png; needs classes. 255 is no class.
        classes: Names of the label ids 0, 1, 2 and so on.
        val: Share of the images that are held out, by a hash of shard and name.
        fit: Images are stretched to a square, cropped to the square in their middle, or padded with grey bars.
        streaming: Whether shards are read from front to back, as those behind addresses must be.
        streams: Sequences that streamed shards are dealt to; a batch is from one of them. A multiple of devices times
            workers reads nothing twice.
        buffer: Streamed images that are shuffled together, in each sequence.
    """

    readers = {}

    licence = "The images belong to their owners."

    def __init__(
        self,
        shards: list[str] | str,
        labels: str | None = None,
        classes: list[str] | None = None,
        val: Share = 0.1,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        flip: Share = 0.5,
        streaming: bool = False,
        streams: Annotated[int, Range(1, 10_000)] = 16,
        buffer: Annotated[int, Range(1, 1_000_000)] = 256,
        *,
        loader_config: LoaderConfig,
    ):
        if (labels is None) != (not classes):
            raise BadConfig("data.labels=END and data.classes=[name,...] belong together; set both, or neither.")
        super().__init__("", loader_config)
        self.shards, self.labels = [shards] if isinstance(shards, str) else list(shards or ()), labels
        self.classes, self.val, self.fit, self.flip = tuple(classes or ()), val, fit, flip
        self.has_labels, self.table = labels is not None, table_of(self.classes)
        self.streaming, self.order = streaming, StreamOrder(streams, buffer, loader_config.seed)
        self._index: ShardIndex | None = None

    @property
    def index(self) -> ShardIndex:
        """Places of all images."""
        if self._index is None:
            self._index = ShardIndex(list_shards(self.shards), self.labels)
        return self._index

    @cached_property
    def stream(self) -> ImageStream:
        """Images of shards that are read from front to back; the first shard is held out.

        Raises:
            DatasetMissing: There is one shard alone, or two have one name.
        """
        shards, title = list(map(str, list_shards(self.shards, streaming=True))), f"data.shards={','.join(self.shards)}"
        if len(shards) < 2:
            raise DatasetMissing(
                f"{title} is one shard, and a stream needs two, the first of which is held out; copy it to a disk, and "
                "leave data.streaming out."
            )
        read, names = partial(_read_shard, shards, self.labels), [shard_name(shard) for shard in shards]
        name, number = Counter(names).most_common(1)[0]
        if number > 1:
            raise DatasetMissing(f"{title}: {number} shards are called {name}; name each once, or rename them.")
        held_out = num_held_out(self.loader_config)
        return ImageStream(title, names, range(1, len(shards)), read, partial(read, 0), self.order, held_out)

    def records(self, split: str) -> list[ImageRecord]:
        """Return the images of a split ("train" or "val"), by id."""
        if self.streaming:
            return self.stream.records(split)
        if split not in self._records:
            ids = sorted(self.index.images)
            if len(ids) < 2:
                number = "one image" if ids else "no image"
                raise DatasetMissing(
                    f"data.shards={','.join(self.shards)} hold {number}, and two are needed; add shards."
                )
            held_out = hold_out(ids, self.val)
            self._records[split] = [ImageRecord(id) for id in ids if (id in held_out) == (split == "val")]
        return self._records[split]

    def load(self, record: ImageRecord) -> EncodedImage:
        """Return the content of an image."""
        return self.stream.held_out[record.id] if self.streaming else self.index.load(record.id)

    def read(self, record: ImageRecord) -> dict[str, Any]:
        """Return everything known of an image before it is transformed."""
        return self.decode(record, self.load(record))

    def decode(self, record: ImageRecord, encoded: EncodedImage) -> dict[str, Any]:
        """Return everything known of an image, from its content."""
        return encoded.decode(record.id, self.table) | {"domain": self.domain(record)}

    def hash_contents(self, records: list[ImageRecord], memo: Path) -> list[str]:
        """Return a hash of the content of each image."""
        return [self.load(record).hash() for record in records]

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with names and sizes of shards and of what is in them.

        Of a stream they change with the names of shards and with the first images that are held out.
        """
        if self.streaming:
            return self.stream.fingerprint()
        sizes = [
            (id, sorted((end, member.size) for end, member in ends.items())) for id, ends in self.index.images.items()
        ]
        state = repr((self.classes, self.val, shard_sizes(self.index.shards), sorted(sizes)))
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def check(self) -> IntegrityReport:
        """Decode every image, and report all faults."""
        if self.streaming:
            return self.stream.check(self.name, ",".join(self.shards), self.table)
        splits = {split: self.records(split) for split in ("train", "val")}
        return check_images(self.name, ",".join(self.shards), splits, self.load, self.table)

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write two shards with captions."""
        Path(root).mkdir(parents=True, exist_ok=True)
        for part in range(2):
            with tarfile.TarFile(Path(root) / f"part-{part:03}.tar", "w") as archive:
                for i, name in enumerate(FAKE_NAMES[part]):
                    pixels = np.random.default_rng((part, i)).integers(0, 256, (30, 40, 3), np.uint8)
                    Image.fromarray(pixels).save(picture := io.BytesIO(), "PNG")
                    _add(archive, f"{name}.png", picture.getvalue())
                    _add(archive, f"{name}.txt", f"image {i} of shard {part}".encode())


def _read_shard(shards: list[str], mask_end: str | None, number: int) -> Iterator[tuple[str, EncodedImage]]:
    return read_shard(shards[number], mask_end)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
