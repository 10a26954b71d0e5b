"""mIoU: agreement of the reference labels with a segmenter's prediction on generated images, or with a task's own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import IGNORE, Batch, Metric
from lumen.core.registry import metrics
from lumen.data.domains import DomainGroups
from lumen.evaluation.label_spaces import LabelSpace, match_label_space, missing_classes
from lumen.features.dense_prediction import DensePredictor


@metrics.register
class MeanIoU(Metric):
    """Mean over classes of the intersection over union, each over all pixels of all images together.

    Classes that are neither labelled nor predicted are left out, as are unlabelled pixels. A segmenter of COCO's
    panoptic classes is scored in those: the labels of COCO-Stuff are merged as COCO merged them, and the metric is
    named miou-panoptic. On an unseen data set each domain has a value, such as miou-night, and miou-mean is their mean.

    Args:
        segmenter: "scenes", or a folder or hub id of a transformers semantic or universal segmentation model, such as
            SegFormer, MaskFormer, Mask2Former or OneFormer. It must name the classes of the data set. null scores the
            label maps that a task predicts.

    Source: the definition of cityscapesScripts' evalPixelLevelSemanticLabeling.py.
    """

    display_name = "mIoU"
    higher_is_better = True
    evaluator_gflop = {"facebook/mask2former-swin-large-coco-panoptic": 268}

    def __init__(
        self,
        segmenter: str | None,
        revision: str | None = None,
        *,
        classes: tuple[str, ...],
        domains: DomainGroups | None = None,
    ):
        if segmenter is None:
            super().__init__(nn.Identity())
            self.output_kind = "labels"
            self.set_label_space(_label_space(dict(enumerate(classes)), classes, "null"))
        else:
            super().__init__(DensePredictor(segmenter, "segmenter", "Segmentation", revision))
            self.set_label_space(_label_space(self.evaluator.network.config.id2label, classes, segmenter))
        self.domains = domains

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
        title = self.domains.title if self.domains else ""
        return "miou" + "-panoptic" * self.label_space.merged + f"-{title}" * bool(title)

    def predict(self, images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """Return the class of every pixel by the processor's own rule; the number of classes stands for none."""
        output = self.evaluator(images)
        labels = self.evaluator.processor.post_process_semantic_segmentation(output, [size] * len(images))
        return self.class_of_label.to(images.device)[torch.stack(labels)]

    def per_sample(
        self, batch: Batch, generated: Float[Tensor, "b n 3 H W"] | Int[Tensor, "b n H W"]
    ) -> Float[Tensor, "b n *groups 2 c"]:
        """Return for each class the pixels of the intersection and of the union of prediction and labels.

        With several groups of domains there are those of each group. Images of other domains have none.
        """
        counts = self._count_pixels(batch, generated)
        if self.domains is None:
            return counts
        groups = [[domain in group for domain in batch.extra["domain"]] for group in self.domains.groups]
        counts = counts[:, :, None] * torch.tensor(groups).T.to(counts)[:, None, :, None, None]
        return counts[:, :, 0] if len(groups) == 1 else counts

    def _count_pixels(
        self, batch: Batch, generated: Float[Tensor, "b n 3 H W"] | Int[Tensor, "b n H W"]
    ) -> Float[Tensor, "b n 2 c"]:
        samples, unlabelled = generated.shape[1], len(self.label_space.names)
        target = self.class_of_mask.to(batch.mask.device)[batch.mask].repeat_interleave(samples, dim=0)
        prediction = generated.flatten(0, 1)
        if self.output_kind == "images":
            prediction = self.predict(prediction, tuple(target.shape[-2:]))
        prediction = prediction.long().clamp(max=unlabelled)  # none of the classes
        prediction = torch.where(target == unlabelled, unlabelled, prediction)
        correct = torch.where(prediction == target, target, unlabelled)
        labels = (x.flatten(1) for x in (correct, prediction, target))
        correct, predicted, labelled = (_count_labels(x, unlabelled + 1)[:, :-1] for x in labels)
        return torch.stack([correct, predicted + labelled - correct], dim=1).unflatten(0, (-1, samples))

    @staticmethod
    def combine(scores: Float[Tensor, "b n *groups 2 c"]) -> Float[Tensor, "b *groups 2 c"]:
        """Return the pixels of all samples of each image."""
        return scores.sum(1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b *groups counts c"]) -> Float[Tensor, ""]:
        """Return the mean over classes that are labelled or predicted, and over groups of domains.

        The mIoU of one image, or of one sample, is that over the classes that are labelled or predicted there.
        """
        return _iou(scores).nanmean(-1).mean()

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return "CLASS.intersection" and "CLASS.union" of every class, each for every group of domains."""
        names = [f"{name}.{count}" for count in ("intersection", "union") for name in self.label_space.names]
        several = len(shape) == 3
        return [f"{'+'.join(group)}.{name}" for group in self.domains.groups for name in names] if several else names

    def breakdown(self, scores: Float[Tensor, "b *groups counts c"]) -> dict[str, Float[Tensor, ""]]:
        """Return the intersection over union of every class that is labelled or predicted; none of a mean of groups."""
        if scores.ndim > 3:
            return {}
        names = self.label_space.names
        return {name: iou for name, iou in zip(names, _iou(scores), strict=True) if not iou.isnan()}


def _iou(scores: Float[Tensor, "b *groups counts c"]) -> Float[Tensor, "*groups c"]:
    """Return the intersection over union of each class; earlier files count predicted and labelled pixels instead."""
    correct, *counts = scores.double().sum(0).unbind(-2)
    return correct / (counts[0] if len(counts) == 1 else sum(counts) - correct)


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
