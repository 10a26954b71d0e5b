"""Columns of Arrow tables: sizes of images and texts, without decoding."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table


def texts(table: "Table", column: str | None) -> list[Any]:
    """Return the values of a column; none without one."""
    return table[column].to_pylist() if column else []


def image_sizes(images: "ChunkedArray") -> list[int]:
    """Return the bytes of each image, whose content is not read; -1 where there is none."""
    import pyarrow.compute as pc

    lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
    paths = pc.struct_field(images, "path").to_pylist()
    return [
        size if size is not None else os.path.getsize(path) if path and os.path.isfile(path) else -1
        for size, path in zip(lengths, paths, strict=True)
    ]
