"""Images of a split as a packed list."""

from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

from lumen.core.packed import PackedList
from lumen.data.index import ImageRecord


class ImageRecords(PackedList):
    """Images of a split, each of which equals the record that was given."""

    def __init__(self, records: Iterable[ImageRecord]):
        super().__init__(
            (record.id, {kind: str(path) for kind, path in record.files.items()}, record.captions) for record in records
        )

    def __getitem__(self, key: SupportsIndex | slice) -> ImageRecord | list[ImageRecord]:
        value = super().__getitem__(key)
        if isinstance(value, list):
            return value
        id, files, captions = value
        return ImageRecord(id, {kind: Path(path) for kind, path in files.items()}, captions)
