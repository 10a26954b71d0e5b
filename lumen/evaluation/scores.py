"""Scores of each evaluated image by each metric: samples.parquet, and the partial results of an evaluation."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from lumen.core.errors import BadFile
from lumen.core.files import atomic_path, write
from lumen.core.hashing import hash_json
from lumen.core.readers import explain_damage, read_tensors


@dataclass
class PerImageScores:
    """Scores of evaluated images, ordered by id: the same row of two runs is the same image.

    Attributes:
        id: Permanent name of each image.
        caption: Prompt of each image.
        scores: What `Metric.per_image` returned, by `Metric.key`.
    """

    id: list[str]
    caption: list[str]
    scores: dict[str, Float[Tensor, "b ..."]]

    def __post_init__(self):
        order = sorted(range(len(self.id)), key=self.id.__getitem__)
        self.id, self.caption = [self.id[n] for n in order], [self.caption[n] for n in order]
        self.scores = {key: scores.cpu()[order] for key, scores in self.scores.items()}


def save_scores(path: Path, scores_by_kind: dict[str, PerImageScores]) -> None:
    """Write a table of one row per kind ("test" or a reference row) and image, and one column per metric."""
    tables = [
        pa.table(
            {"kind": [kind] * len(images.id), "id": images.id, "caption": images.caption}
            | {key: _to_column(scores) for key, scores in images.scores.items()}
        )
        for kind, images in scores_by_kind.items()
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.concat_tables(tables, promote_options="default"), temporary)


def load_scores(path: Path, kind: str = "test") -> PerImageScores:
    """Return the scores of one kind; metrics that it was not scored by are left out.

    Raises:
        BadFile: The file is damaged.
    """
    with explain_damage(path, "remove it and the metrics.json beside it, and repeat the run's command"):
        table = pq.read_table(path, filters=[("kind", "=", kind)])
        if not len(table):
            raise ValueError(f"it has no rows of kind '{kind}'")
        keys = [name for name in table.column_names[3:] if table[name].null_count < len(table)]
        scores = {key: _from_column(table[key]) for key in keys}
        return PerImageScores(table["id"].to_pylist(), table["caption"].to_pylist(), scores)


class PartialScores:
    """Scores of the batches evaluated so far, one file each, from which an interrupted evaluation resumes."""

    def __init__(self, directory: Path):
        self.directory = directory

    def load(self, ids: list[str]) -> dict[str, Tensor] | None:
        """Return the scores of a batch by metric; None if it was not scored, or its file is damaged."""
        path = self._path(ids)
        with suppress(BadFile):
            scores = read_tensors(path, "remove it") if path.exists() else None
            is_complete = scores is not None and all(rows.shape[:1] == (len(ids),) for rows in scores.values())
            return scores if is_complete else None
        return None

    def save(self, ids: list[str], scores: dict[str, Tensor]) -> None:
        """Write the scores of a batch, by metric."""
        write(self._path(ids), save({key: rows.cpu().contiguous() for key, rows in scores.items()}))

    def _path(self, ids: list[str]) -> Path:
        return self.directory / f"{hash_json(ids)}.safetensors"


def _to_column(scores: Float[Tensor, "b ..."]) -> pa.Array:
    """Return numbers, or lists of any length: a reference row with fewer samples per image may have shorter ones."""
    array = pa.array(scores.contiguous().numpy().ravel())
    for length in reversed(scores.shape[1:]):
        array = pa.ListArray.from_arrays(pa.array(range(0, len(array) + 1, length), pa.int32()), array)
    return array


def _from_column(column: pa.ChunkedArray) -> Float[Tensor, "b ..."]:
    array, shape = column.combine_chunks(), [len(column)]
    while pa.types.is_list(array.type):
        shape.append(len(array[0]))
        array = array.flatten()
    return torch.tensor(array.to_numpy(zero_copy_only=False)).reshape(shape)
