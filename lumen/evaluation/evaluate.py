"""Evaluation of a trained task: its outputs and its reference rows, scored by every metric under one protocol."""

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, Trainer
from safetensors.torch import save
from torch import Tensor

from lumen.core.errors import Mistake
from lumen.core.files import write, write_json
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Metric, Task
from lumen.core.readers import read_json, read_tensors
from lumen.core.tensor_hashing import fingerprint
from lumen.evaluation.keys import metric_keys
from lumen.evaluation.loop import EvaluationLoop
from lumen.evaluation.scores import PartialScores, PerImageScores, save_scores


@dataclass(frozen=True)
class Protocol:
    """Settings of an evaluation. Values of two runs are compared only under one protocol.

    Attributes:
        metrics: Arguments of each metric.
        reference_rows: Reference rows to score beside the task's outputs.
        images: Most held-out images to score.
        samples: Outputs per image.
        sampling: Sampler and its options.
        size: Side of an image in pixels.
        data: Arguments of the data set, as far as they decide which images and classes are scored.
        seed: Seed of the samples; no part of the protocol's hash.
        task: Name of the task, unless it is the default one.
    """

    metrics: dict[str, dict[str, Any]]
    reference_rows: list[str]
    images: int
    samples: int
    sampling: dict[str, Any]
    size: int
    data: dict[str, Any]
    seed: int
    task: str | None = None

    def rules(
        self, data: LightningDataModule, task: Task, metrics: dict[str, Metric], precision: str
    ) -> dict[str, Any]:
        """Return everything that a metric value depends on besides what was learnt and the seed."""
        source = data.source
        task_rules = task.protocol() | ({"task": self.task} if self.task else {})
        questions = source.questions_by_caption
        return {
            "metrics": {
                name: self.metrics.get(name, {}) | {"evaluator": fingerprint(metric.evaluator)}
                for name, metric in metrics.items()
            },
            "images": min(self.images, len(source.records(source.eval_split))),
            "samples": self.samples,
            "format": "8 bits, as in a PNG",
            "sampling": self.sampling,
            "size": self.size,
            "data": self.data
            | {"fingerprint": source.fingerprint(), "questions": hash_json(questions) if questions else None},
            "lumen": version("lumen"),
            "precision": precision,
        } | task_rules


class Evaluation(NamedTuple):
    """Results of an evaluation.

    Attributes:
        values: Every metric value by key, and the protocol.
        caption: Prompt of each image by id.
        scores: Value of each image alone, by metric and id; metrics that compare distributions have none.
        pictures: Pictures of some images by id, as `EvaluationLoop` keeps them.
    """

    values: dict[str, Any]
    caption: dict[str, str]
    scores: dict[str, dict[str, float]]
    pictures: dict[str, Tensor]


def evaluate_rows(
    trainer: Trainer,
    data: LightningDataModule,
    task: Task,
    metrics: dict[str, Metric],
    protocol: Protocol,
    directory: Path,
    shared: Path,
    num_pictures: int = 0,
) -> Evaluation:
    """Score a trained task and its reference rows by every metric.

    The scores of each image are written to samples.parquet. Reference rows that are the same for all runs of one
    protocol are scored once.

    Args:
        directory: Run directory.
        shared: Directory for the shared reference rows and for network outputs of the reference images.
        num_pictures: Images whose pictures are returned.
    """
    if not metrics:
        return Evaluation({}, {}, {}, {})
    rules = protocol.rules(data, task, metrics, trainer.precision)
    digest = hash_json(rules | {"seed": protocol.seed})
    shared = shared / digest
    reference_cache = shared / f"seen-{trainer.global_rank}-of-{trainer.world_size}.safetensors"
    _load_reference_cache(metrics, reference_cache)
    values: dict[str, Any] = {"protocol": rules | {"hash": hash_json(rules)}}
    scores: dict[str, PerImageScores] = {}
    pictures: dict[str, Tensor] = {}
    for row in ("test", *protocol.reference_rows):
        file = shared / f"{row}.json"
        num_outputs = task.num_outputs(row, protocol.samples)
        columns = {metric.key for metric in metrics.values() if metric.samples_per_image <= num_outputs}
        known = _load_shared_row(file, row, columns) if row in task.shared_rows else None
        known = trainer.strategy.broadcast(known)
        if known is None:
            partial = PartialScores(partial_scores_directory(directory) / f"{digest}-{trainer.global_step}-{row}")
            loop = EvaluationLoop(
                row, task, metrics, protocol.samples, protocol.sampling, protocol.seed, data.mismatched_batch, partial,
                num_pictures if row == "test" else 0,
            )  # fmt: skip
            trainer.test(loop, datamodule=data, verbose=False)
            known, scores[row] = loop.values, loop.scores
            pictures |= loop.pictures
        values |= known
    if trainer.is_global_zero:
        save_scores(directory / "samples.parquet", scores)
        with suppress(Mistake):  # if they cannot be written, the next run scores them again
            for row in scores.keys() & set(task.shared_rows):
                row_values = {str(key): values[str(key)] for key in metric_keys(values, row)}
                write_json(shared / f"{row}.json", row_values)
    with suppress(Mistake):
        tensors = {f"{name}/{i}": x for name, metric in metrics.items() for i, x in metric.reference_cache.items()}
        write(reference_cache, save(tensors))
    images = scores["test"]
    return Evaluation(
        values,
        dict(zip(images.id, images.caption, strict=True)),
        {
            metric.key: _image_values(metric, images)
            for metric in metrics.values()
            if metric.key in images.scores and not metric.compares_distributions
        },
        pictures,
    )


def _image_values(metric: Metric, images: PerImageScores) -> dict[str, float]:
    """Return the value of each image alone by id."""
    return dict(zip(images.id, metric.image_values(images.scores[metric.key]).tolist(), strict=True))


def partial_scores_directory(directory: Path) -> Path:
    """Return where an evaluation keeps the scores of finished batches until metrics.json is written."""
    return directory / "measuring"


def summarize(values: dict[str, Any], task: Task) -> str:
    """Return one line per metric: its value with the confidence interval, then the reference rows."""
    lines = []
    for key in metric_keys(values, "test"):
        if key.interval or key.part is not None:
            continue
        low, high = values[str(replace(key, interval=True))]
        rows = {row: str(replace(key, kind=row)) for row in task.reference_rows}
        references = ", ".join(f"{row} {values[name]:.3g}" for row, name in rows.items() if name in values)
        lines.append(f"{key.metric:9s} {values[str(key)]:.3g} [{low:.3g}, {high:.3g}]   {references}".rstrip())
    return "\n".join(lines)


def _load_reference_cache(metrics: dict[str, Metric], path: Path) -> None:
    """Give each metric the network outputs of reference images that an earlier run computed."""
    with suppress(Mistake):
        for key, value in read_tensors(path, "remove it").items():
            name, _, image_id = key.partition("/")
            if name in metrics:
                metrics[name].reference_cache[image_id] = value


def _load_shared_row(path: Path, row: str, columns: set[str]) -> dict[str, Any] | None:
    """Return the values of a reference row that an earlier run scored; None if it is to be scored.

    Args:
        columns: Metrics that the row has.
    """
    with suppress(Mistake):
        values = read_json(path, "remove it")
        is_complete = {key.metric for key in metric_keys(values, row)} == columns
        if is_complete and all(isinstance(value, int | float | list) for value in values.values()):
            return values
    return None
