"""Failure gallery: the worst, or best, samples of a run by a metric, as lines and as a sheet of pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from lumen.config.schema import Config
from lumen.core.errors import UnknownName
from lumen.core.text import escape_line
from lumen.evaluation.keys import MetricKey, higher_is_better
from lumen.evaluation.sample_values import SampleValue, load_values

if TYPE_CHECKING:
    from PIL import Image


def rank_samples(run: Path, metric: str, count: int, best: bool = False) -> list[SampleValue]:
    """Return the worst samples of an evaluated run, the worst first, or the best ones.

    Args:
        run: Directory of a run, or of a further evaluation of one.
        metric: Key of a metric, or its registered name.

    Raises:
        UnknownName: The run has no scores.
        Mistake: Samples have no values of this metric.
    """
    path = run / "samples.parquet"
    if not path.exists():
        raise UnknownName(f"{run} has no samples.parquet; repeat its lumen train command, which scores its samples.")
    values = load_values(path, metric)
    sign = 1 if higher_is_better(MetricKey("test", metric)) != best else -1
    return sorted(values, key=lambda value: (sign * value.value, value.image, value.sample))[:count]


def describe_sample(value: SampleValue, metric: str) -> str:
    """Return a line about a sample: its image, its number, its value, its prompt."""
    return escape_line(f"{value.image}  sample {value.sample}  {metric} {value.value:.4g}  {value.caption}".rstrip())


def make_sheet(run: Path, config: Config, values: list[SampleValue], metric: str) -> "Image.Image":
    """Return a sheet of samples: reference, layout, and the sample as it was scored, with a line about each below.

    Args:
        config: Config of the run.
    """
    from lumen.core.visualize import tile_images
    from lumen.runs.gallery import regenerate_samples

    pictures, legend = regenerate_samples(run, config, [(value.image, value.sample) for value in values])
    rows = [[x for x in pictures[value.image, value.sample] if x is not None] for value in values]
    titles = ["image", "layout", "sample"] if len(rows[0]) == 3 else ["image", "sample"]
    return tile_images(rows, titles, [describe_sample(value, metric) for value in values], legend)
