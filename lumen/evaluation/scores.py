"""What every measured image brought to every metric: samples.parquet, and the pieces it is put together from."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lumen.core.files import beside, write


@dataclass
class Samples:
    """Rows of measured images, ordered by id: of two runs the same row is the same image."""

    id: list[str]
    caption: list[str]
    rows: dict[str, Float[Tensor, "b ..."]]  # by the title of the metric

    def __post_init__(self):
        order = sorted(range(len(self.id)), key=self.id.__getitem__)
        self.id, self.caption = [self.id[n] for n in order], [self.caption[n] for n in order]
        self.rows = {title: rows.cpu()[order] for title, rows in self.rows.items()}


def save_samples(path: Path, kinds: dict[str, Samples]) -> None:
    """One line per kind of picture and image, one column per metric."""
    tables = [
        pa.table(
            {"kind": [kind] * len(some.id), "id": some.id, "caption": some.caption}
            | {title: _column(rows) for title, rows in some.rows.items()}
        )
        for kind, some in kinds.items()
    ]
    with beside(path) as draft:
        pq.write_table(pa.concat_tables(tables, promote_options="default"), draft)


def load_samples(path: Path, kind: str = "test") -> Samples:
    table = pq.read_table(path, filters=[("kind", "=", kind)])
    titles = [name for name in table.column_names[3:] if table[name].null_count < len(table)]
    return Samples(table["id"].to_pylist(), table["caption"].to_pylist(), {t: _rows(table[t]) for t in titles})


class Pieces:
    """The rows of batches judged so far, one file each: a measuring that was interrupted goes on with them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, ids: list[str]) -> dict[str, Tensor] | None:
        """The rows of a batch by metric; None where it has not been judged, or not been written whole."""
        try:
            return load_file(self._path(ids))
        except (OSError, SafetensorError):
            return None

    def save(self, ids: list[str], rows: dict[str, Tensor]) -> None:
        write(self._path(ids), save({title: each.cpu().contiguous() for title, each in rows.items()}))

    def _path(self, ids: list[str]) -> Path:
        return self.folder / f"{sha256(json.dumps(ids).encode()).hexdigest()[:16]}.safetensors"


def _column(rows: Float[Tensor, "b ..."]) -> pa.Array:
    """Numbers, or lists of them of any length: where fewer samples of an image are judged, it may bring less."""
    array = pa.array(rows.contiguous().numpy().ravel())
    for length in reversed(rows.shape[1:]):
        array = pa.ListArray.from_arrays(pa.array(range(0, len(array) + 1, length), pa.int32()), array)
    return array


def _rows(column: pa.ChunkedArray) -> Float[Tensor, "b ..."]:
    array, shape = column.combine_chunks(), [len(column)]
    while pa.types.is_list(array.type):
        shape.append(len(array[0]))
        array = array.flatten()
    return torch.tensor(array.to_numpy(zero_copy_only=False)).reshape(shape)
