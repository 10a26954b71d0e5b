"""mIoU: agreement of a segmenter's prediction on generated images with the reference labels."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.core.interfaces import IGNORE, Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.label_spaces import LabelSpace, match_label_space, missing_classes
from lumen.features.dense_prediction import DensePredictor


@metrics.register
class MeanIoU(Metric):
    """Mean over classes of the intersection over union, each over all pixels of all images together.

    Classes that are neither labelled nor predicted are left out, as are unlabelled pixels. A segmenter of COCO's
    panoptic classes is scored in those: the labels of COCO-Stuff are merged as COCO merged them, and the metric is
    named miou-panoptic.

    Args:
        segmenter: "scenes", or a folder or hub id of a transformers semantic or universal segmentation model, such as
            SegFormer, MaskFormer, Mask2Former or OneFormer. It must name the classes of the data set.

    Source: the definition of cityscapesScripts' evalPixelLevelSemanticLabeling.py.
    """

    higher_is_better = True

    def __init__(self, segmenter: str, revision: str | None = None, *, classes: tuple[str, ...]):
        super().__init__(DensePredictor(segmenter, "segmenter", "Segmentation", revision))
        self.set_label_space(_label_space(self.evaluator.network.config.id2label, classes, segmenter))

    def set_label_space(self, space: LabelSpace) -> None:
        """Compare in these classes."""
        self.label_space = space
        self.class_of_label = torch.tensor(space.label_index)
        class_of_mask = torch.full((IGNORE + 1,), len(space.names))
        class_of_mask[: len(space.class_index)] = torch.tensor(space.class_index)
        self.class_of_mask = class_of_mask

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return "miou-panoptic" if self.label_space.merged else "miou"

    def predict(self, images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """Return the class of every pixel by the processor's own rule; the number of classes stands for none."""
        output = self.evaluator(images)
        labels = self.evaluator.processor.post_process_semantic_segmentation(output, [size] * len(images))
        return self.class_of_label.to(images.device)[torch.stack(labels)]

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b 3 c"]:
        """Return the pixels of each class per image that are predicted correctly, predicted, and labelled."""
        samples, unlabelled = generated.shape[1], len(self.label_space.names)
        target = self.class_of_mask.to(batch.mask.device)[batch.mask].repeat_interleave(samples, dim=0)
        prediction = self.predict(generated.flatten(0, 1), tuple(target.shape[-2:]))
        prediction = torch.where(target == unlabelled, unlabelled, prediction)
        correct = torch.where(prediction == target, target, unlabelled)
        labels = (x.view(len(batch.id), -1) for x in (correct, prediction, target))
        return torch.stack([_count_labels(x, unlabelled + 1)[:, :-1] for x in labels], dim=1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 3 c"]) -> Float[Tensor, ""]:
        """Return the mean over classes that are labelled or predicted."""
        return _iou(scores).nanmean()

    def breakdown(self, scores: Float[Tensor, "b 3 c"]) -> dict[str, Float[Tensor, ""]]:
        """Return the intersection over union of every class that is labelled or predicted."""
        names = self.label_space.names
        return {name: iou for name, iou in zip(names, _iou(scores), strict=True) if not iou.isnan()}


def _iou(scores: Float[Tensor, "b 3 c"]) -> Float[Tensor, " c"]:
    correct, predicted, labelled = scores.double().sum(0)
    return correct / (predicted + labelled - correct)


def _count_labels(labels: Int[Tensor, "b n"], bins: int) -> Float[Tensor, "b c"]:
    """Return how often each label occurs in each row; exact in float32 up to 16 million pixels."""
    zeros = torch.zeros(len(labels), bins, device=labels.device)
    return zeros.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))


def _label_space(labels: dict[int, str], classes: tuple[str, ...], segmenter: str) -> LabelSpace:
    """Return the classes in which the segmenter and the data set are compared.

    Raises:
        BadConfig: The segmenter lacks a class.
    """
    space = match_label_space(labels, classes)
    if space is not None:
        return space
    missing = missing_classes(labels, classes)
    raise BadConfig(
        f"metrics.miou.segmenter={segmenter} has {len(labels)} labels, but lacks {len(missing)} of the data set's "
        f"{len(classes)} classes, such as '{missing[0]}'; name a segmenter that was trained on this data set."
    )
