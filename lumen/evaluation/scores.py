"""Scores of evaluated images and of their samples: samples.parquet, and partial results of an evaluation."""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from lumen.core.errors import BadFile
from lumen.core.files import atomic_path, write
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Metric
from lumen.core.readers import explain_damage, read_tensors
from lumen.core.registry import metrics
from lumen.evaluation.sample_format import DESCRIPTION, FEATURES, REMEDY, VERSION, column_name, read_description


@dataclass
class SampleScores:
    """Scores of the samples of each image by one metric.

    Attributes:
        rows: What `Metric.per_sample` returned.
        columns: Name of each number in the scores of a sample; "" is the metric's own. Without names, each image has
            one column of nested lists, such as the features of its samples.
        values: Metric of each sample alone; None where single samples have none.
        is_shared: Whether all samples of an image share their scores; m is 1 then.
    """

    rows: Float[Tensor, "b m ..."]
    columns: list[str]
    values: Float[Tensor, "b m"] | None
    is_shared: bool = False

    def take(self, order: list[int]) -> "SampleScores":
        """Return the scores of images in another order."""
        return replace(self, rows=self.rows[order], values=None if self.values is None else self.values[order])


def describe_samples(metric: Metric, rows: Float[Tensor, "b m ..."]) -> SampleScores:
    """Return what a metric's `per_sample` returned with its names and values."""
    is_shared = type(metric).per_sample is Metric.per_sample
    if metric.compares_distributions:  # the file has one cell per image for them
        return SampleScores(metric.combine(rows)[:, None], [], None, is_shared=True)
    columns = metric.columns(tuple(rows.shape[2:]))
    return SampleScores(rows, columns, rows if columns == [""] else metric.sample_values(rows), is_shared)


@dataclass
class PerImageScores:
    """Scores of evaluated images, ordered by id: the same row of two runs is the same image.

    Attributes:
        id: Permanent name of each image.
        caption: Prompt of each image.
        scores: What `Metric.score` returned, by `Metric.key`.
        samples: Scores of the samples, of metrics that have any.
        seed: Seed of each sample.
        file: File of each image, relative to its data set; None where there is none.
    """

    id: list[str]
    caption: list[str]
    scores: dict[str, Float[Tensor, "b ..."]]
    samples: dict[str, SampleScores] = field(default_factory=dict)
    seed: Int[Tensor, "b n"] | None = None
    file: list[str | None] | None = None

    def __post_init__(self):
        order = sorted(range(len(self.id)), key=self.id.__getitem__)
        self.id, self.caption = [self.id[n] for n in order], [self.caption[n] for n in order]
        self.scores = {key: scores.cpu()[order] for key, scores in self.scores.items()}
        self.samples = {key: samples.take(order) for key, samples in self.samples.items()}
        self.seed = None if self.seed is None else self.seed[order]
        self.file = None if self.file is None else [self.file[n] for n in order]


def save_scores(path: Path, scores_by_kind: dict[str, PerImageScores]) -> None:
    """Write a table of one row per kind ("test" or a reference row), image and sample.

    The metadata of the file holds the version of the format and, for each metric, the columns that make its scores.
    """
    samples_by_kind = {kind: _all_samples(images) for kind, images in scores_by_kind.items()}
    tables = [_to_table(kind, images, samples_by_kind[kind]) for kind, images in scores_by_kind.items()]
    entries = {key: _describe(key, scores) for kind in samples_by_kind.values() for key, scores in kind.items()}
    description = json.dumps({"version": VERSION, "metrics": entries}).encode()
    table = pa.concat_tables(tables, promote_options="default").replace_schema_metadata({DESCRIPTION: description})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_scores(path: Path, kind: str = "test") -> PerImageScores:
    """Return the scores of images of one kind; metrics that it was not scored by are left out.

    Raises:
        BadFile: The file is damaged, or of a later release.
    """
    with explain_damage(path, REMEDY):
        table = pq.read_table(path, filters=[("kind", "=", kind)])
        if not len(table):
            raise ValueError(f"it has no rows of kind '{kind}'")
        description = read_description(table.schema)
        if description is None:  # a release with one row per image has written it
            keys = [name for name in table.column_names[3:] if table[name].null_count < len(table)]
            scores = {key: _from_nested(table[key].combine_chunks()) for key in keys}
            return PerImageScores(table["id"].to_pylist(), table["caption"].to_pylist(), scores)
        first = table.filter(pa.compute.equal(table["sample"], 0))
        entries = {key: entry for key, entry in description["metrics"].items() if _is_scored(table, key, entry)}
        scores = {key: _read_rows(first if entry["is_shared"] else table, key, entry) for key, entry in entries.items()}
        return PerImageScores(first["image"].to_pylist(), first["caption"].to_pylist(), scores)


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
        return self.directory / f"{hash_json([VERSION, *ids])}.safetensors"  # other versions have other shapes


def _all_samples(images: PerImageScores) -> dict[str, SampleScores]:
    """Return the scores of samples by metric; those of a metric without any are the ones of their image."""
    shared = {
        key: SampleScores(
            scores[:, None], [""] * (scores.ndim == 1), scores[:, None] if scores.ndim == 1 else None, is_shared=True
        )
        for key, scores in images.scores.items()
    }
    return shared | images.samples


def _to_table(kind: str, images: PerImageScores, samples: dict[str, SampleScores]) -> pa.Table:
    """Return one row per image and sample, and the columns of every metric."""
    widths = [scores.rows.shape[1] for scores in samples.values()]
    length, width = len(images.id), max([1 if images.seed is None else images.seed.shape[1], *widths])
    position = torch.arange(length).repeat_interleave(width).numpy()  # of the image of each row
    columns: dict[str, Any] = {
        "kind": pa.array([kind] * (length * width)),
        "image": pa.array(images.id).take(position),
        "sample": torch.arange(width, dtype=torch.int32).repeat(length).numpy(),
        "seed": pa.nulls(length * width, pa.int64()) if images.seed is None else images.seed.flatten().numpy(),
        "file": pa.array(images.file or [None] * length, pa.string()).take(position),
        "caption": pa.array(images.caption).take(position),
    }
    for key, scores in samples.items():
        if not scores.columns:
            at_first_sample = pa.array([n // width if n % width == 0 else None for n in range(length * width)])
            columns[column_name(key, FEATURES)] = _to_nested(scores.rows[:, 0]).take(at_first_sample)
            continue
        if scores.values is not None:
            columns[key] = _repeat(scores.values, width)
        if scores.columns != [""]:
            numbers = scores.rows.flatten(2).unbind(2)
            names = [column_name(key, name) for name in scores.columns]
            columns |= {name: _repeat(x, width) for name, x in zip(names, numbers, strict=True)}
    return pa.table(columns)


def _describe(key: str, samples: SampleScores) -> dict[str, Any]:
    """Return what the file says of a metric."""
    return {
        "is_shared": samples.is_shared,
        "shape": list(samples.rows.shape[2:]),
        "columns": [column_name(key, name) for name in samples.columns],
        "has_values": samples.values is not None,
    }


def _repeat(values: Float[Tensor, "b m"], width: int) -> Any:
    """Return the values of all samples, image by image; samples that share a value have it each."""
    return values.expand(-1, width).flatten().numpy()


def _is_scored(table: pa.Table, key: str, entry: dict[str, Any]) -> bool:
    """Return whether any image has scores by a metric; reference rows with one sample lack some."""
    column = table[entry["columns"][0] if entry["columns"] else column_name(key, FEATURES)]
    return column.null_count < len(column)


def _read_rows(table: pa.Table, key: str, entry: dict[str, Any]) -> Float[Tensor, "b ..."]:
    """Return the scores of images.

    Args:
        table: Rows of all samples, or of the first of each image if they share their scores.
    """
    if not entry["columns"]:
        return _from_nested(table[column_name(key, FEATURES)].combine_chunks())
    numbers = [torch.tensor(table[name].to_numpy()) for name in entry["columns"]]
    if entry["is_shared"]:
        return torch.stack(numbers, dim=1).view(-1, *entry["shape"])
    num_images = pa.compute.sum(pa.compute.equal(table["sample"], 0)).as_py()
    name = key.partition("-")[0]
    metric = metrics.factory(name) if name in metrics.names() else Metric
    return metric.combine(torch.stack(numbers, dim=1).view(num_images, -1, *entry["shape"]))


def _to_nested(scores: Float[Tensor, "b ..."]) -> pa.Array:
    """Return numbers, or lists of any length: a reference row with fewer samples per image may have shorter ones."""
    array = pa.array(scores.contiguous().numpy().ravel())
    for length in reversed(scores.shape[1:]):
        array = pa.ListArray.from_arrays(pa.array(range(0, len(array) + 1, length), pa.int32()), array)
    return array


def _from_nested(array: pa.Array) -> Float[Tensor, "b ..."]:
    shape = [len(array)]
    while pa.types.is_list(array.type):
        shape.append(len(array[0]))
        array = array.flatten()
    return torch.tensor(array.to_numpy(zero_copy_only=False)).reshape(shape)
