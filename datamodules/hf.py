"""Any data set of the library `datasets`: a hub id, or a folder of parquet files, images, or of `save_to_disk`."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from lumen.core.errors import BadConfig, BadSample, DatasetMissing, suggestion
from lumen.core.paths import user_path
from lumen.core.ranges import Range, Share
from lumen.core.registry import datamodules
from lumen.data.columns import image_sizes, texts
from lumen.data.encoded import EncodedImage, check_images, table_of
from lumen.data.fake import save_image
from lumen.data.image_stream import ImageStream, StreamOrder, num_held_out
from lumen.data.index import ImageRecord
from lumen.data.integrity import IntegrityReport
from lumen.data.photos import hold_out
from lumen.data.source import DataSource, LoaderConfig

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

CAPTION_COLUMNS = ("text", "caption", "captions")  # the first that there is
ROWS = 32  # of a streamed file that are asked for together
FAKE_ROWS = 30  # three of which are held out


@datamodules.register
class Hf(DataSource):
    """Rows with an image each, in memory-mapped files, of which any is read at once, or streamed.

    Either way a run resumes exactly. Needs `pip install lumen[hf]`. No code of a data set is run. The columns are found
    by their usual names.

    Args:
        source: Hub id, or a folder.
        subset: Name of one of the parts of a data set on the hub.
        revision: Commit of a hub id.
        image: Column of the images.
        caption: Column of a caption or a list of captions; null takes text, caption or captions where there is one.
        labels: Column of label maps, images of one byte per pixel; needs classes. 255 is no class.
        classes: Names of the label ids 0, 1, 2 and so on.
        split: Rows to learn from.
        val_split: Rows that are held out; null holds out rows of `split`, by a hash of their number.
        val: Share of those rows.
        fit: Images are stretched to a square, cropped to the square in their middle, or padded with grey bars.
        streaming: Whether rows are read from front to back, and nothing of them is stored on the disk.
        streams: Sequences that streamed shards are dealt to; a batch is from one of them. A multiple of devices times
            workers reads nothing twice.
        buffer: Streamed images that are shuffled together, in each sequence.
    """

    readers = {}

    licence = "The images belong to their owners."

    def __init__(
        self,
        source: str,
        subset: str | None = None,
        revision: str | None = None,
        image: str = "image",
        caption: str | None = None,
        labels: str | None = None,
        classes: list[str] | None = None,
        split: str = "train",
        val_split: str | None = None,
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
            raise BadConfig("data.labels=COLUMN and data.classes=[name,...] belong together; set both, or neither.")
        super().__init__("", loader_config)
        self.place, self.subset, self.revision = source or "", subset, revision
        self.image, self.caption, self.labels, self.classes = image, caption, labels, tuple(classes or ())
        self.split, self.val_split, self.val, self.fit, self.flip = split, val_split, val, fit, flip
        self.has_labels, self.table = labels is not None, table_of(self.classes)
        self.streaming, self.order = streaming, StreamOrder(streams, buffer, loader_config.seed)
        self._tables: dict[str, Dataset | IterableDataset] = {}

    # ---- rows

    def records(self, split: str) -> list[ImageRecord]:
        """Return the rows of a split ("train" or "val"), named after the split of the source and their number."""
        if self.streaming:
            return self.stream.records(split)
        if split not in self._records:
            name = self.val_split if split == "val" and self.val_split else self.split
            ids = [f"{name}-{row:08}" for row in range(len(self._table(name)))]
            if not self.val_split:
                held_out = hold_out(ids, self.val)
                ids = [id for id in ids if (id in held_out) == (split == "val")]
            if not ids:
                raise DatasetMissing(f"hf, {split} split: {self.place} has too few rows in {name!r}; two are needed.")
            self._records[split] = [ImageRecord(id) for id in ids]
        return self._records[split]

    def load(self, record: ImageRecord) -> EncodedImage:
        """Return the content of a row."""
        if self.streaming:
            return self.stream.held_out[record.id]
        name, _, row = record.id.rpartition("-")
        return self._encoded(record.id, self._table(name)[int(row)])

    def read(self, record: ImageRecord) -> dict[str, Any]:
        """Return everything known of an image before it is transformed."""
        return self.decode(record, self.load(record))

    def decode(self, record: ImageRecord, encoded: EncodedImage) -> dict[str, Any]:
        """Return everything known of an image, from its content."""
        return encoded.decode(f"{record.id} of {self.place}", self.table) | {"domain": self.domain(record)}

    @cached_property
    def stream(self) -> ImageStream:
        """Rows of files that are read from front to back; without `val_split` the first file is held out.

        Raises:
            DatasetMissing: There is one file alone.
        """
        shards, title = self._table(self.split).num_shards, f"data.source={self.place}"
        if shards < 2 and not self.val_split:
            raise DatasetMissing(
                f"{title} has one file in {self.split!r}, and a stream needs two, the first of which is held out; name "
                "data.val_split=NAME, or leave data.streaming out."
            )
        names = [f"{self.split}-{shard:05}" for shard in range(shards)]
        training, read = range(0 if self.val_split else 1, shards), partial(self._read_shard, self.split)
        held_out, count = self._read_split if self.val_split else partial(read, 0), num_held_out(self.loader_config)
        return ImageStream(title, names, training, read, held_out, self.order, count)

    def _read_split(self) -> Iterator[tuple[str, EncodedImage]]:
        """Yield the rows of `val_split`."""
        for shard in range(self._table(self.val_split).num_shards):
            yield from self._read_shard(self.val_split, shard)

    def _read_shard(self, split: str, shard: int) -> Iterator[tuple[str, EncodedImage]]:
        """Yield id and content of the rows of a file.

        Raises:
            BadSample: The library cannot read it.
        """
        table = self._table(split)
        # Unlike `iter(table)`, this divides nothing among the workers of a loader.
        batches = table.shard(table.num_shards, shard).iter(batch_size=ROWS)
        for number in count():
            try:
                if (batch := next(batches, None)) is None:
                    return
            except Exception as error:  # the library raises dozens of types
                reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
                raise BadSample(
                    f"{self.place}, {split!r}: file {shard} cannot be read beyond row {number * ROWS:,} ({reason}); "
                    "see whether it answers and is whole, then repeat the command."
                ) from None
            for row in range(len(batch[self.image])):
                id = f"{split}-{shard:05}-{number * ROWS + row:06}"
                yield id, self._encoded(id, {name: values[row] for name, values in batch.items()})

    def _encoded(self, id: str, content: dict[str, Any]) -> EncodedImage:
        """Return the content of a row."""
        mask = content[self.labels] if self.labels else None
        captions = content[self.caption] if self.caption else None
        return EncodedImage(self._bytes(id, content[self.image]), mask and self._bytes(id, mask), captions)

    def _bytes(self, id: str, cell: dict[str, Any] | None) -> bytes:
        """Return the bytes of an image of a row, which may be a file of the source.

        Raises:
            BadSample: There is none, or it is a file of another place.
        """
        if cell and cell["bytes"] is not None:
            return cell["bytes"]
        if not (cell and cell["path"]):
            raise BadSample(f"{id} of {self.place} has no image; remove the row, or restore the image.")
        path = Path(cell["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise BadSample(f"{id} of {self.place} names {path}, which is no file of it; store images in its rows.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise BadSample(f"{path} cannot be read: {error.strerror}; restore the file.") from None

    @property
    def _roots(self) -> list[Path]:
        """Directories whose files a row may name."""
        from datasets import config

        folder = user_path(self.place)
        caches = [Path(config.HF_DATASETS_CACHE), Path(config.HF_CACHE_HOME) / "hub"]
        return [path.resolve() for path in ([folder] if folder.is_dir() else caches)]

    def _table(self, split: str) -> "Dataset | IterableDataset":
        if split not in self._tables:
            self._tables[split] = self._select_columns(self._open(split))
        return self._tables[split]

    def _open(self, split: str) -> "Dataset | IterableDataset":
        """Open a split of the source.

        Raises:
            DatasetMissing: There is no such data set or split, or the library is not installed.
        """
        if not self.place:
            raise DatasetMissing("data=hf needs data.source=ID|DIR.")
        try:
            from datasets import disable_progress_bars, load_dataset, load_from_disk
        except ImportError:
            raise DatasetMissing("data=hf needs the library datasets; install it by `pip install datasets`.") from None
        folder = user_path(self.place)
        disable_progress_bars()
        try:
            if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
                content = load_from_disk(str(folder))
                table = content[split] if isinstance(content, dict) else content
                return table.to_iterable_dataset(len(table.cache_files) or 1) if self.streaming else table
            path = str(folder.resolve()) if folder.is_dir() else self.place
            return load_dataset(path, self.subset, split=split, revision=self.revision, streaming=self.streaming)
        except Exception as error:  # the library raises dozens of types
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise DatasetMissing(
                f"data.source={self.place} cannot be opened with the split {split!r} ({reason}); give a folder that "
                "exists or a hub id, and data.split=NAME."
            ) from None

    def _select_columns(self, table: "Dataset | IterableDataset") -> "Dataset | IterableDataset":
        """Return the columns that are used, with images as bytes."""
        from datasets import Image

        names = table.column_names or list(next(iter(table), {}))
        if self.caption is None:
            self.caption = next((name for name in CAPTION_COLUMNS if name in names), None)
        columns = {"image": self.image, "labels": self.labels, "caption": self.caption}
        for key, name in columns.items():
            if name is not None and name not in names:
                hint = suggestion(name, names)
                raise DatasetMissing(f"data.{key}={name} is no column of {self.place}; {hint}")
        table = table.select_columns([name for name in columns.values() if name])
        for name in filter(None, (self.image, self.labels)):
            table = table.cast_column(name, Image(decode=False))
        return table

    # ---- identity

    def hash_contents(self, records: list[ImageRecord], memo: Path) -> list[str]:
        """Return a hash of the content of each row."""
        return [self.load(record).hash() for record in records]

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the rows of the splits, the sizes of images, and captions.

        Of a stream they change with the number of files and with the first rows that are held out.
        """
        if self.streaming:
            return self.stream.fingerprint()
        state = hashlib.sha256(repr((self.classes, self.val, self.val_split)).encode())
        for name in dict.fromkeys((self.split, self.val_split or self.split)):
            table = self._table(name)
            for batch in table.with_format("arrow").iter(batch_size=10_000):
                sizes = [image_sizes(batch[column]) for column in (self.image, self.labels) if column]
                state.update(repr([sizes, *texts(batch, self.caption)]).encode())
        return state.hexdigest()[:16]

    def check(self) -> IntegrityReport:
        """Decode every row, and report all faults."""
        if self.streaming:
            return self.stream.check(self.name, self.place, self.table)
        splits = {split: self.records(split) for split in ("train", "val")}
        return check_images(self.name, self.place, splits, self.load, self.table)

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write images with captions in a metadata.jsonl, as `datasets` loads a folder of images."""
        folder, lines = Path(root) / "train", []
        for i in range(FAKE_ROWS):
            rng = np.random.default_rng(i)
            save_image(folder / f"{i}.png", rng.integers(0, 256, (30 + i % 3, 40, 3), np.uint8))
            lines.append(json.dumps({"file_name": f"{i}.png", "text": f"row {i} of something"}))
        (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
