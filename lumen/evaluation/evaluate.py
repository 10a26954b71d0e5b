"""Evaluation of a trained task: its outputs and its reference rows, scored by every metric under one protocol."""

from contextlib import suppress
from dataclasses import dataclass
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
from lumen.data.source import DataSource
from lumen.evaluation.keys import metric_keys
from lumen.evaluation.loop import EvaluationLoop
from lumen.evaluation.prediction_files import PredictionFiles
from lumen.evaluation.saved_samples import SampleFolders
from lumen.evaluation.scores import PartialScores, save_scores


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
        unseen: Arguments of the unseen data set, as far as they decide which images are scored.
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
    unseen: dict[str, Any] | None = None

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
            | {"fingerprint": source.fingerprint(), "questions": hash_json(questions) if questions else None}
            | ({"unseen": (self.unseen or {}) | _describe_unseen(data.unseen)} if data.unseen else {}),
            "lumen": version("lumen"),
            "precision": precision,
        } | task_rules


def _describe_unseen(source: DataSource) -> dict[str, Any]:
    """Return everything that decides which images of an unseen data set are scored."""
    return {"name": source.name, "images": len(source.eval_records()), "fingerprint": source.fingerprint()}


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
    samples: SampleFolders,
    num_pictures: int = 0,
    predictions: PredictionFiles | None = None,
) -> Evaluation:
    """Score a trained task and its reference rows by every metric.

    The scores of each sample are written to samples.parquet. Reference rows that are the same for all runs of one
    protocol are scored once.

    Args:
        directory: Directory of the results: that of the run, or of a further evaluation.
        shared: Directory for the shared reference rows and for network outputs of the reference images.
        samples: Folders of generated images that were saved, or are to be.
        num_pictures: Images whose pictures are returned.
        predictions: Place of predicted boxes, if they are saved.
    """
    if not metrics:
        return Evaluation({}, {}, {}, {})
    rules = protocol.rules(data, task, metrics, trainer.precision)
    digest = hash_json(rules | {"seed": protocol.seed})
    shared = shared / digest
    reference_cache = shared / f"seen-{trainer.global_rank}-of-{trainer.world_size}.safetensors"
    _load_reference_cache(metrics, reference_cache)
    values: dict[str, Any] = {"protocol": rules | {"hash": hash_json(rules)}}
    passes: dict[str, EvaluationLoop] = {}
    for row in ("test", *protocol.reference_rows):
        partial = partial_scores_directory(directory) / f"{digest}-{trainer.global_step}-{row}"
        saved = samples.of_row(task, row, _sampling_rules(rules, protocol.seed))
        loop = EvaluationLoop(
            row, task, metrics, protocol.samples, protocol.sampling, protocol.seed, data.mismatched_batch,
            PartialScores(partial), num_pictures if row == "test" else 0, saved, predictions if row == "test" else None,
        )  # fmt: skip
        known = None
        if row in task.shared_rows and (saved is None or saved.is_complete(task, rules["images"])):
            known = _load_shared_row(shared / f"{row}.json", row, set(loop.metrics))
        known = trainer.strategy.broadcast(known)
        if known is None:
            trainer.test(loop, datamodule=data, verbose=False)
            known, passes[row] = loop.values, loop
            if saved is not None and trainer.is_global_zero:
                saved.report(trainer.world_size)
        values |= known
    if trainer.is_global_zero:
        _save_scores(directory, passes, _file_names(data))
        _save_shared_rows(shared, passes.keys() & set(task.shared_rows), values)
    _save_reference_cache(metrics, reference_cache)
    return _summary_of(passes["test"], values, metrics)


def _sampling_rules(rules: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return everything that generated images depend on besides what was learnt: the protocol without its metrics."""
    data = {key: value for key, value in rules["data"].items() if key != "questions"}
    return {key: value for key, value in rules.items() if key != "metrics"} | {"data": data, "seed": seed}


def _summary_of(loop: EvaluationLoop, values: dict[str, Any], metrics: dict[str, Metric]) -> Evaluation:
    """Return the results of an evaluation.

    Args:
        loop: Pass over the task's own outputs.
        values: Metric values of all rows.
    """
    images = loop.scores
    with_values = [m for m in metrics.values() if m.key in images.scores and not m.compares_distributions]
    scores = {metric.key: metric.image_values(images.scores[metric.key]).tolist() for metric in with_values}
    return Evaluation(
        values,
        dict(zip(images.id, images.caption, strict=True)),
        {key: dict(zip(images.id, numbers, strict=True)) for key, numbers in scores.items()},
        loop.pictures,
    )


def _save_scores(directory: Path, passes: dict[str, EvaluationLoop], files: dict[str, str]) -> None:
    """Write samples.parquet, of the task's own outputs, and reference_rows.parquet, of what else was scored.

    Args:
        files: File of each image.
    """
    for loop in passes.values():
        loop.scores.file = [files.get(image_id) for image_id in loop.scores.id]
    references = {row: loop.scores for row, loop in passes.items() if row != "test"}
    save_scores(directory / "samples.parquet", {"test": passes["test"].scores})
    if references:
        save_scores(directory / "reference_rows.parquet", references)


def _file_names(data: LightningDataModule) -> dict[str, str]:
    """Return the file of each evaluated image, relative to its data set; rendered images have none."""
    names = {}
    for source in data.eval_sources:
        for record in source.eval_records():
            if path := record.files.get("image"):
                is_inside = path.is_relative_to(source.root)
                names[record.id] = path.relative_to(source.root).as_posix() if is_inside else path.name
    return names


def partial_scores_directory(directory: Path) -> Path:
    """Return where an evaluation keeps the scores of finished batches until metrics.json is written."""
    return directory / "measuring"


def _save_shared_rows(shared: Path, rows: set[str], values: dict[str, Any]) -> None:
    """Write the values of reference rows for other runs; if they cannot be written, the next run scores them again."""
    with suppress(Mistake):
        for row in rows:
            write_json(shared / f"{row}.json", {str(key): values[str(key)] for key in metric_keys(values, row)})


def _save_reference_cache(metrics: dict[str, Metric], path: Path) -> None:
    """Write the network outputs of reference images for other runs."""
    with suppress(Mistake):
        tensors = {f"{name}/{i}": x for name, metric in metrics.items() for i, x in metric.reference_cache.items()}
        write(path, save(tensors))


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
