"""Comparison of two runs: the difference in each metric, and the images on which they differ most."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.config.schema import Config
from lumen.core.errors import Mistake, UnknownName, suggestion
from lumen.core.text import escape_line
from lumen.evaluation.keys import MetricKey, metric_keys
from lumen.evaluation.sample_values import load_values
from lumen.runs.directory import load_provenance, load_results, load_run_config
from lumen.sweeps.cell import MIN_TESTED_IMAGES
from lumen.sweeps.protocol import verify_comparable, verify_data

if TYPE_CHECKING:
    from PIL import Image

NAMES = ("A", "B")
VALIDATION_LOSS = MetricKey("val", "loss")
EVALUATE_ALIKE = "evaluate one as the other was, with lumen eval, and compare what it writes to RUN/eval"
TRAIN_ALIKE = "compare runs of the same data"


@dataclass(frozen=True)
class Difference:
    """Difference of two runs in one metric.

    Attributes:
        values: Metric of the first run and of the second.
        interval: 95 % confidence interval of second minus first over the same images; None for values that are not
            made of per-image scores.
        num_images: Images that both were scored on.
    """

    key: MetricKey
    values: tuple[float, float]
    interval: tuple[float, float] | None
    num_images: int

    @property
    def is_different(self) -> bool | None:
        """True if the interval lies on one side of zero; None if nothing was tested, or too few images were."""
        if self.interval is None or self.num_images < MIN_TESTED_IMAGES:
            return None
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class SamplePair:
    """Samples of two runs of one image, under one number.

    Attributes:
        values: Metric of the sample of each run.
    """

    image: str
    sample: int
    caption: str
    values: tuple[float, float]


def compare_runs(runs: tuple[Path, Path], chosen: list[str]) -> list[Difference]:
    """Return the difference of two finished runs, or evaluations of runs, in each metric.

    Args:
        chosen: Metrics to compare, by key or registered name; all of them if there are none.

    Raises:
        UnknownName: A run has no results, or no such metric.
        Mistake: They were evaluated under different protocols, on other images, or trained on different data.
    """
    results = tuple(map(_load_results, runs))
    fingerprints = [load_provenance(run)["data"] for run in runs if _has_files(run)]
    verify_data(fingerprints, "runs", TRAIN_ALIKE)  # first: of other data, the protocols differ as well
    verify_comparable([values["protocol"] for values in results if "protocol" in values], "runs", EVALUATE_ALIKE)
    keys = _select_keys(results, chosen, list(load_run_config(runs[0]).get("metrics", {})))
    scores = _load_scores(runs) if any(key.kind == "test" for key in keys) else None
    return [_compare(key, results, scores) for key in keys]


def find_pairs(runs: tuple[Path, Path], metric: str, count: int) -> list[SamplePair]:
    """Return the samples in which two runs differ most, one of each image, the most different first.

    Raises:
        Mistake: Samples have no values of this metric.
    """
    first, second = ({(v.image, v.sample): v for v in load_values(run / "samples.parquet", metric)} for run in runs)
    pairs = [
        SamplePair(*key, value.caption, (value.value, second[key].value))
        for key, value in first.items()
        if key in second
    ]
    pairs.sort(key=lambda pair: (-abs(pair.values[1] - pair.values[0]), pair.image, pair.sample))
    by_image: dict[str, SamplePair] = {}
    for pair in pairs:
        by_image.setdefault(pair.image, pair)
    return list(by_image.values())[:count]


def describe_pair(pair: SamplePair, metric: str) -> str:
    """Return a line about the samples of an image."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(NAMES, pair.values, strict=True))
    return escape_line(f"{pair.image}  sample {pair.sample}  {metric}: {values}  {pair.caption}".rstrip())


def make_sheet(
    runs: tuple[Path, Path], configs: tuple[Config, Config], pairs: list[SamplePair], metric: str
) -> "Image.Image":
    """Return a sheet with a row for each pair: the image, then layout and sample of each run, as they were scored."""
    from lumen.core.visualize import tile_images
    from lumen.runs.gallery import regenerate_samples

    keys = [(pair.image, pair.sample) for pair in pairs]
    (first, legend), (second, _) = (
        regenerate_samples(run, config, keys) for run, config in zip(runs, configs, strict=True)
    )
    rows, titles = [], []
    for key in keys:
        columns = {"image": first[key].image}
        for name, pictures in zip(NAMES, (first[key], second[key]), strict=True):
            columns |= {f"layout of {name}": pictures.layout} if pictures.layout is not None else {}
            columns[f"sample of {name}"] = pictures.sample
        rows, titles = [*rows, list(columns.values())], list(columns)
    return tile_images(rows, titles, [describe_pair(pair, metric) for pair in pairs], legend)


def _load_results(run: Path) -> dict[str, Any]:
    load_run_config(run)  # which says that a directory is none of a run
    results = load_results(run)
    if results is None:
        raise UnknownName(f"{run} has no metrics.json, because it has not finished; repeat its command first.")
    return results


def _has_files(run: Path) -> bool:
    """Return whether a run was trained on files, and recorded which."""
    return "root" in load_run_config(run)["data"] and (run / "provenance.json").exists()


def _select_keys(
    results: tuple[dict[str, Any], dict[str, Any]], chosen: list[str], order: list[str]
) -> list[MetricKey]:
    """Return the keys of metrics that both runs have, and of the validation loss if no metrics are chosen.

    Args:
        order: Registered names in the order of the experiment.

    Raises:
        UnknownName: One that is chosen is none of them.
    """
    first, second = results
    keys = [key for key in metric_keys(first, "test") if key.part is None and not key.interval and str(key) in second]
    rank = {metric: number for number, metric in enumerate(order)}
    keys.sort(key=lambda key: rank.get(key.registry_name, len(rank)))
    if not chosen:
        return [*keys, *([VALIDATION_LOSS] if all(str(VALIDATION_LOSS) in values for values in results) else [])]
    names = {name: key for key in keys for name in (key.registry_name, key.metric)}
    if unknown := next((name for name in chosen if name not in names), None):
        raise UnknownName(f"the two runs have no metric '{unknown}' in common; {suggestion(unknown, names)}")
    return list(dict.fromkeys(names[name] for name in chosen))


def _load_scores(runs: tuple[Path, Path]) -> tuple[Any, Any] | None:
    """Return the per-image scores of both runs; None if one has no file of them.

    Raises:
        Mistake: They are of different images.
    """
    from lumen.evaluation.scores import load_scores  # it imports torch

    paths = [run / "samples.parquet" for run in runs]
    if not all(path.exists() for path in paths):
        return None
    first, second = map(load_scores, paths)
    if first.id != second.id:
        raise Mistake(f"{runs[0]} and {runs[1]} were scored on different images, so they cannot be compared in pairs.")
    return first, second


def _compare(key: MetricKey, results: tuple[dict[str, Any], ...], scores: tuple[Any, Any] | None) -> Difference:
    values = tuple(values[str(key)] for values in results)
    if scores is None:
        return Difference(key, values, None, 0)
    from lumen.sweeps.statistics import Bootstrap

    bootstrap = Bootstrap({name: [run.scores] for name, run in zip(NAMES, scores, strict=True)})
    return Difference(key, values, bootstrap.difference(NAMES[1], NAMES[0], key), len(scores[0].id))
