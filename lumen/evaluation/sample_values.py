"""Values of single samples in samples.parquet, read without torch."""

from pathlib import Path
from typing import Any, NamedTuple

from lumen.core.errors import Mistake
from lumen.core.readers import explain_damage
from lumen.evaluation.sample_format import REMEDY, read_description


class SampleValue(NamedTuple):
    """Value of one metric for one sample.

    Attributes:
        image: Id of the reference image.
        sample: Number of the sample among those of the image.
        caption: Prompt of the sample.
        value: Metric value; of all samples of the image together where they share theirs.
    """

    image: str
    sample: int
    caption: str
    value: float


def load_values(path: Path, metric: str) -> list[SampleValue]:
    """Return the values of a metric of the run's own samples, by id and sample.

    Values that are not defined are left out. Where all samples of an image share their value, the first one stands for
    them.

    Args:
        metric: Key of a metric, such as "lpips-scenes", or its registered name.

    Raises:
        Mistake: The file has no values of this metric for single samples.
        BadFile: The file is damaged.
    """
    import pyarrow.parquet as pq

    with explain_damage(path, REMEDY):
        schema = pq.read_schema(path)
        description = read_description(schema)
    if description is None:
        return _load_image_values(path, metric)
    metrics = {key: entry for key, entry in description["metrics"].items() if entry["has_values"]}
    key = _select(path, metric, metrics, description["metrics"])
    with explain_damage(path, REMEDY):
        table = pq.read_table(path, columns=["kind", "image", "sample", "caption", key])
        rows = [row for row in table.to_pylist() if row["kind"] == "test"]
        values = [SampleValue(row["image"], row["sample"], row["caption"], row[key]) for row in rows]
    is_shared = metrics[key]["is_shared"]
    return [v for v in values if v.value is not None and v.value == v.value and not (is_shared and v.sample)]


def _load_image_values(path: Path, metric: str) -> list[SampleValue]:
    """Return the values of each image in a file of an earlier release, which has none of single samples."""
    from lumen.core.registry import metrics
    from lumen.evaluation.scores import load_scores  # it imports torch

    images = load_scores(path)
    known = {key: metrics.factory(key.partition("-")[0]) for key in images.scores}
    key = _select(path, metric, {k for k, factory in known.items() if not factory.compares_distributions}, known)
    values = known[key].image_values(images.scores[key]).tolist()
    rows = zip(images.id, images.caption, values, strict=True)
    return [SampleValue(image, 0, caption, value) for image, caption, value in rows if value == value]


def _select(path: Path, metric: str, with_values: Any, known: Any) -> str:
    """Return the key of a metric that has values of single samples.

    Raises:
        Mistake: It has none.
    """
    key = metric if metric in known else next((key for key in known if key.partition("-")[0] == metric), None)
    if key in with_values:
        return key
    reason = f"{metric} compares distributions, so no sample has a value of it" if key else f"it has no '{metric}'"
    available = ", ".join(sorted(with_values)) or "none of its metrics"
    raise Mistake(f"{path}: {reason}; samples have values of: {available}.")
