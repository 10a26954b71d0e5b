"""Evaluation loop: one pass over held-out images, with the outputs of a task scored by every metric."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.core.errors import Diverged
from lumen.core.interfaces import Batch, Metric, Task
from lumen.core.random import stable_seed
from lumen.core.visualize import thumbnails
from lumen.evaluation.keys import MetricKey
from lumen.evaluation.prediction_files import PredictionFiles
from lumen.evaluation.saved_samples import SavedSamples
from lumen.evaluation.scores import PartialScores, PerImageScores, describe_samples

PICTURE_KINDS = ("images", "edits")  # kinds of outputs that are rounded as a PNG file rounds
PICTURES = "pictures"  # beside the scores of a batch, in the file of an interrupted evaluation


class EvaluationLoop(LightningModule):
    """One pass over held-out images.

    Every pass has the same images, captions and noise, so the values of two rows differ by what was generated alone.

    Args:
        row: "test", or a reference row of the task.
        task: Task whose outputs are scored.
        metrics: Metrics by name; those that need more outputs per image than the row has are left out.
        samples: Outputs per image; a row without randomness has one.
        sampling: The config's `sampling`, without the number of images.
        seed: Seed of the samples.
        mismatched_batch: Function that returns other images of the data set, always the same ones for a batch.
        partial: Scores of the batches of an interrupted evaluation.
        num_pictures: Images of each process whose pictures are kept.
        saved: Images that the task has generated before, and place of those that it generates now.
        predictions: Place of predicted boxes, if they are saved.

    Attributes:
        pictures: Pictures (n, 3, h, w) as bytes by image id: the image, its layout if it has one, its first sample.
        scores: Scores of all images, after the pass.
        values: Metric values by key, each with its 95 % confidence interval if it has one, after the pass.
    """

    def __init__(
        self,
        row: str,
        task: Task,
        metrics: dict[str, Metric],
        samples: int,
        sampling: dict[str, Any],
        seed: int,
        mismatched_batch: Callable[[Batch], Batch],
        partial: PartialScores,
        num_pictures: int = 0,
        saved: SavedSamples | None = None,
        predictions: PredictionFiles | None = None,
    ):
        super().__init__()
        self.row, self.task, self.sampling, self.seed = row, task, sampling, seed
        self.mismatched_batch, self.partial, self.num_pictures = mismatched_batch, partial, num_pictures
        self.saved, self.predictions = saved, predictions
        self.pictures: dict[str, Tensor] = {}
        self.num_outputs = task.num_outputs(row, samples)
        self.metrics = nn.ModuleDict(
            {metric.key: metric for metric in metrics.values() if metric.samples_per_image <= self.num_outputs}
        )
        self.images: list[tuple[str, str]] = []  # id and caption of each image of this rank
        self.scores: PerImageScores | None = None
        self.values: dict[str, float | list[float]] = {}

    def on_test_epoch_start(self) -> None:
        self.images = []
        if self.saved is not None:
            self.saved.locate(self.task)
        for metric in self.metrics.values():
            metric.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.partial.load(batch.id)
        is_unsaved = self.saved is not None and self.saved.lacks(batch.id, self.num_outputs)
        is_unsaved |= self.predictions is not None and self.predictions.lacks(batch.id)
        if scores is None or not set(self.metrics) <= scores.keys() or is_unsaved:
            outputs = self.outputs(batch)
            if self.predictions is not None:
                self.predictions.save(batch.id, outputs["boxes"])
            scores = {
                key: metric.score_samples(batch, outputs[metric.output_kind] if isinstance(outputs, dict) else outputs)
                for key, metric in self.metrics.items()
            }
            if len(self.pictures) < self.num_pictures and "images" in self.task.output_kind:
                images = outputs["images"] if isinstance(outputs, dict) else outputs
                scores[PICTURES] = self._picture(batch, images)
            self.partial.save(batch.id, scores)
        if PICTURES in scores:
            self.pictures |= zip(batch.id, scores[PICTURES].cpu(), strict=True)
        self.images += zip(batch.id, batch.caption, strict=True)
        for key, metric in self.metrics.items():
            metric.rows.append(scores[key].to(self.device))

    def on_test_epoch_end(self) -> None:
        """Aggregate the scores of all ranks, and log each value."""
        samples = {}
        for key, metric in self.metrics.items():
            with metric.sync_context():
                samples[key] = describe_samples(metric, dim_zero_cat(metric.rows).cpu())
        ids, captions = zip(*_gather(self.images), strict=True)
        self.scores = PerImageScores(
            list(ids),
            list(captions),
            {key: metric.combine(samples[key].rows) for key, metric in self.metrics.items()},
            samples,
            torch.tensor(sample_seeds(self.seed, ids, self.num_outputs)).T,
        )
        for name, metric in self.metrics.items():
            rows, key = self.scores.scores[name], MetricKey(self.row, name)
            values = {str(key): metric.aggregate(rows)}
            values |= {str(replace(key, part=part)): value for part, value in metric.breakdown(rows).items()}
            self.log_dict({name: value.float() for name, value in values.items()}, rank_zero_only=True)
            self.values |= {name: float(value) for name, value in values.items()}
            if (interval := metric.interval(rows)) is not None:
                self.values[str(replace(key, interval=True))] = interval

    def _picture(self, batch: Batch, outputs: Float[Tensor, "b n 3 H W"]) -> UInt8[Tensor, "b c 3 h w"]:
        """Return small pictures of images, their layouts and their first samples."""
        layout = self.task.visualize(batch)
        columns = [batch.image, *([] if layout is None else [layout * 2 - 1]), outputs[:, 0]]
        return thumbnails(columns)

    def outputs(self, batch: Batch) -> Tensor | dict[str, Tensor]:
        """Return the outputs (b, n, ...) of a batch, or those of each kind.

        Images are rounded to 8 bits: they are scored as PNG files are.

        Raises:
            Diverged: They are not finite.
        """
        device = batch.image.device
        if self.saved is not None and (pixels := self.saved.load(batch.id, self.num_outputs)) is not None:
            return _from_levels(pixels.to(device).float())
        seeds = sample_seeds(self.seed, batch.id, self.num_outputs)
        outputs = self.task.outputs(
            batch, seeds, self.row, other=lambda: self.mismatched_batch(batch).to(device), **self.sampling
        )
        for tensor in outputs.values() if isinstance(outputs, dict) else [outputs]:
            self._verify_finite(batch, tensor)
        if isinstance(outputs, dict):
            return {kind: round_to_bytes(x) if kind in PICTURE_KINDS else x for kind, x in outputs.items()}
        if self.saved is not None:
            outputs = outputs.float()  # as those that are read
            self.saved.save(batch.id, _to_levels(outputs).byte())
        return round_to_bytes(outputs) if self.task.output_kind in PICTURE_KINDS else outputs

    def _verify_finite(self, batch: Batch, outputs: Tensor) -> None:
        """Raise Diverged if outputs are not finite."""
        if not bool(outputs.isfinite().all()):
            bad = [i for i, samples in zip(batch.id, outputs, strict=True) if not bool(samples.isfinite().all())]
            raise Diverged(
                f"samples of {bad[0]} ({self.row}) are not finite numbers, so nothing can be scored; set "
                "precision=32-true, or lower sampling.guidance."
            )


def sample_seeds(seed: int, ids: Sequence[str], num_samples: int) -> list[list[int]]:
    """Return for each sample one seed per image."""
    return [[stable_seed(seed, "measure", image_id, k) for image_id in ids] for k in range(num_samples)]


def round_to_bytes(images: Tensor) -> Tensor:
    """Return images in [-1, 1], rounded to the 256 levels of a PNG file."""
    return _from_levels(_to_levels(images))


def _to_levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255)


def _from_levels(levels: Tensor) -> Tensor:
    return levels / 127.5 - 1


def _gather(images: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the images of every rank, in the order in which torchmetrics gathers states."""
    if not dist.is_initialized():
        return images
    per_rank: list[list[tuple[str, str]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, images)
    return [image for rank in per_rank for image in rank]
