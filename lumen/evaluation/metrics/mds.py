"""mDS: mean detection score of 3D boxes, as the 3D benchmark of Cityscapes defines it (Gählert et al. 2020)."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.bootstrap import bootstrap_sums
from lumen.core.boxes import CENTER, DIMENSIONS, LABEL, MODAL, NO_BOX, ROTATION, SCORE, boxes_to_array
from lumen.core.errors import BadConfig, BadSample
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.box_matching import (
    MIN_OVERLAP,
    THRESHOLDS,
    amodal_boxes,
    covered_share,
    intersection_over_union,
    match_boxes,
    yaw_pitch_roll,
)

DISTANCES = {"cityscapes": (100, 5), "scenes": (20, 2)}  # greatest distance and width of a bin, in metres
TRUE, FALSE, MISSED, BINS = 0, 1, 2, slice(3, None)  # true and false positives, false negatives, distance bins
PARTS = ("center_dist", "size_similarity", "yaw", "pitch_roll")
BIN_NUMBERS = 1 + len(PARTS)  # the matches of a bin, and the sums of their parts
OFFICIAL_SIZE = (2048, 1024)


@metrics.register
class MeanDetectionScore(Metric):
    """Mean over classes of AP times the mean quality of matches: centre, size, yaw, pitch and roll. It is in [0, 1].

    Boxes are matched in the image, at an intersection over union above 0.7. AP is the area below precision over recall
    at 51 confidences. Quality is measured at the confidence of the largest product of the two, and averaged over bins
    of distance, so that near and far objects count alike. Classes without labelled boxes are left out.

    Args:
        matching: Boxes that are matched: "modal", around visible pixels, as TaskPrompter does; or "amodal", around the
            whole object as its 3D box shows it, as the benchmark does, and the metric is named mds-amodal.
        distances: "cityscapes", up to 100 m in bins of 5 m; or "scenes", up to 20 m in bins of 2 m, which is named
            mds-scenes.

    Source: cityscapesScripts 2.3.0, evaluation/evalObjectDetection3d.py.
    """

    higher_is_better = True
    display_name = "mDS"
    output_kind = "boxes"
    annotation = "boxes"
    compares_distributions = True  # a single image has too few boxes

    def __init__(
        self,
        matching: Literal["modal", "amodal"] = "modal",
        distances: Literal["cityscapes", "scenes"] = "cityscapes",
        *,
        box_classes: tuple[str, ...],
    ):
        super().__init__(nn.Identity())
        if not box_classes:
            raise BadConfig("metrics.mds: the data set has no classes of 3D boxes; leave mds out of metrics.")
        self.matching, self.distances, self.box_classes = matching, distances, box_classes
        self.max_distance, self.bin_width = DISTANCES[distances]

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return "mds" + "-scenes" * (self.distances == "scenes") + "-amodal" * (self.matching == "amodal")

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n m 16"]) -> Float[Tensor, "b t c f"]:
        """Return counts and sums of each threshold and class: positives, false negatives, and matches by distance.

        An image without a file of boxes counts nothing.

        Args:
            generated: Boxes as `lumen.core.boxes` describes them.
        """
        shape = len(THRESHOLDS), len(self.box_classes), 3 + self.max_distance // self.bin_width * BIN_NUMBERS
        rows = np.zeros((len(batch.id), *shape), np.float32)
        contents = batch.extra.get(self.annotation, [None] * len(batch.id))
        for row, image_id, content, samples in zip(rows, batch.id, contents, generated.cpu().double(), strict=True):
            for boxes in samples.numpy() if content is not None else ():
                self._count_image(row, image_id, content, boxes[boxes[:, LABEL] != NO_BOX])
        return torch.from_numpy(rows).to(generated.device)

    def _count_image(
        self, row: Float[np.ndarray, "t c f"], image_id: str, content: dict[str, Any], boxes: Float[np.ndarray, "m 16"]
    ) -> None:
        """Add the counts and sums of an image to a row."""
        truth = boxes_to_array(content["objects"], self.box_classes)
        labelled, predicted = truth[:, MODAL], boxes[:, MODAL]
        if self.matching == "amodal":
            flat = [entry["2d"]["amodal"] for entry in content["objects"] if entry["label"] in self.box_classes]
            labelled, predicted = np.array(flat, float).reshape(-1, 4), _project(image_id, content, boxes)
        regions = np.array([region["2d"] for region in content["ignore"]], float).reshape(-1, 4)
        is_ignored = (covered_share(regions, boxes[:, MODAL]) > MIN_OVERLAP).any(0)
        for label in range(len(self.box_classes)):
            is_truth, is_box = truth[:, LABEL] == label, boxes[:, LABEL] == label
            overlap = intersection_over_union(labelled[is_truth], predicted[is_box])
            self._count_class(row[:, label], truth[is_truth], boxes[is_box], overlap, is_ignored[is_box])

    def _count_class(
        self,
        row: Float[np.ndarray, "t f"],
        truth: Float[np.ndarray, "g 16"],
        boxes: Float[np.ndarray, "m 16"],
        overlap: Float[np.ndarray, "g m"],
        is_ignored: np.ndarray,
    ) -> None:
        """Add the counts and sums of a class in an image to a row."""
        bins = row[:, BINS].reshape(len(row), -1, BIN_NUMBERS)
        is_false = (boxes[:, SCORE, None] >= THRESHOLDS) & ~is_ignored[:, None]
        row[:, MISSED] += len(truth)
        for i, j, matched in match_boxes(overlap, boxes[:, SCORE]):
            row[:, TRUE] += matched
            row[:, MISSED] -= matched
            is_false[j] &= ~matched
            distance = int(np.sqrt(np.square(truth[i, CENTER][:2]).sum()))
            if distance < self.max_distance:
                bins[matched, distance // self.bin_width] += (1, *self._quality(truth[i], boxes[j]))
        row[:, FALSE] += is_false.sum(0)

    def _quality(self, truth: Float[np.ndarray, " 16"], box: Float[np.ndarray, " 16"]) -> tuple[float, ...]:
        """Return each of PARTS for a match."""
        gap = np.hypot(*(truth[CENTER] - box[CENTER])[:2])
        sizes = np.minimum(truth[DIMENSIONS] / box[DIMENSIONS], box[DIMENSIONS] / truth[DIMENSIONS])
        angles = yaw_pitch_roll(np.stack([truth[ROTATION], box[ROTATION]]))
        yaw, pitch, roll = np.cos(angles[0] - angles[1])
        return 1 - min(gap / self.max_distance, 1), sizes.prod(), (1 + yaw) / 2, 0.5 + (pitch + roll) / 4

    @staticmethod
    def aggregate(scores: Float[Tensor, "b t c f"]) -> Float[Tensor, ""]:
        """Return the mean over classes that have labelled boxes."""
        sums = scores.double().sum(0)
        precision, parts = _average_precision(sums), _match_quality(sums)
        return (precision * parts.mean(1))[_has_truth(sums)].mean()

    def breakdown(self, scores: Float[Tensor, "b t c f"]) -> dict[str, Float[Tensor, ""]]:
        """Return the detection score of each class that has labelled boxes, and the means of what it is made of."""
        sums = scores.double().sum(0)
        precision, parts, exists = _average_precision(sums), _match_quality(sums), _has_truth(sums)
        by_class = zip(self.box_classes, precision * parts.mean(1), exists, strict=True)
        means = zip(PARTS, parts[exists].mean(0), strict=True)
        return {name: score for name, score, known in by_class if known} | {
            "AP": precision[exists].mean(),
            **dict(means),
        }

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b t c f"]) -> Float[Tensor, " draws"]:
        """Return the metric of bootstrap resamples of the images."""
        return bootstrap_sums(cls.aggregate, scores, cls.num_resamples)


def _project(image_id: str, content: dict[str, Any], boxes: Float[np.ndarray, "m 16"]) -> Float[np.ndarray, "m 4"]:
    """Return the amodal boxes of predictions, which their 3D boxes decide, whatever 2D boxes they bring.

    Raises:
        BadSample: The camera is unknown.
    """
    size = content.get("imgWidth", OFFICIAL_SIZE[0]), content.get("imgHeight", OFFICIAL_SIZE[1])
    sensor = content["sensor"]
    if missing := [key for key in ("fx", "fy", "u0", "v0", "sensor_T_ISO_8855") if key not in sensor]:
        raise BadSample(
            f"the 3D boxes of {image_id} come without the camera's '{missing[0]}', which metrics.mds.matching=amodal "
            "needs; restore the file of gtBbox3d, or set matching=modal."
        )
    return amodal_boxes(boxes[:, CENTER], boxes[:, DIMENSIONS], boxes[:, ROTATION], sensor, size)


def _has_truth(sums: Float[Tensor, "t c f"]) -> Tensor:
    return (sums[0, :, TRUE] + sums[0, :, MISSED]) > 0


def _precision_and_recall(sums: Float[Tensor, "t c f"]) -> tuple[Float[Tensor, "t c"], Float[Tensor, "t c"]]:
    """Return both, 0 where nothing is matched."""
    true = sums[..., TRUE]
    return tuple(torch.where(true > 0, true / (true + sums[..., other]), 0) for other in (FALSE, MISSED))


def _average_precision(sums: Float[Tensor, "t c f"]) -> Float[Tensor, " c"]:
    """Return the area below the precision at each recall or a greater one."""
    precision, recall = _precision_and_recall(sums)
    recall, order = recall.sort(dim=0)
    zeros = torch.zeros_like(recall[:1])
    precision = torch.cat([precision.gather(0, order), zeros]).flip(0).cummax(0).values.flip(0)
    return (torch.cat([recall, zeros + 1]).diff(dim=0, prepend=zeros) * precision).sum(0)


def _match_quality(sums: Float[Tensor, "t c f"]) -> Float[Tensor, "c parts"]:
    """Return the mean over distance bins of each part at a class's working point; 0 if fewer than two have matches."""
    precision, recall = _precision_and_recall(sums)
    working = (precision * recall).argmax(0)
    bins = sums[working, torch.arange(sums.shape[1], device=sums.device), BINS].unflatten(1, (-1, BIN_NUMBERS))
    count = bins[..., :1]
    means = torch.where(count > 0, bins[..., 1:] / count, 0)
    filled = (count > 0).sum(1)
    return torch.where(filled > 1, means.sum(1) / filled, 0)
