"""mIoU: does a segmenter find in the samples what the labels of the reference say?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.core.interfaces import IGNORE, Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.label_spaces import Space, space
from lumen.features.dense_prediction import Evaluator


@metrics.register
class MeanIoU(Metric):
    """Intersection over union of every class, over all pixels of all images together, then the mean over classes.

    Classes that are neither labelled nor found count for nothing; unlabelled pixels are left out. A segmenter of COCO's
    panoptic classes is judged in those: the labels of COCO-Stuff are merged as COCO merged them, and the measure is
    called miou-panoptic.

    Args:
        segmenter: a folder or hub id of a transformers semantic or universal segmentation model (SegFormer, MaskFormer,
            Mask2Former, OneFormer ...) that knows the classes of the data set by name, or "scenes".

    Source: the definition of cityscapesScripts' evalPixelLevelSemanticLabeling.py.
    """

    higher_is_better = True

    def __init__(self, segmenter: str, revision: str | None = None, *, classes: tuple[str, ...]):
        super().__init__(Evaluator(segmenter, "segmenter", "Segmentation", revision))
        self.space = _space(self.evaluator.network.config.id2label, classes, segmenter)
        self.meaning = torch.tensor(self.space.found)
        truth = torch.full((IGNORE + 1,), len(self.space.names))
        truth[: len(classes)] = torch.tensor(self.space.truth)
        self.belongs = truth

    @property
    def key(self) -> str:
        return "miou-panoptic" if self.space.merged else "miou"

    def found(self, images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """The class of every pixel, by the processor's own rule; as many as there are classes where it is none."""
        output = self.evaluator(images)
        labels = self.evaluator.processor.post_process_semantic_segmentation(output, [size] * len(images))
        return self.meaning.to(images.device)[torch.stack(labels)]

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b 3 c"]:
        """Pixels of each class per image: rightly found, found, labelled."""
        count = generated.shape[1]
        none = len(self.space.names)
        truth = self.belongs.to(batch.mask.device)[batch.mask].repeat_interleave(count, dim=0)
        found = self.found(generated.flatten(0, 1), tuple(truth.shape[-2:]))
        found = torch.where(truth == none, none, found)
        right = torch.where(found == truth, truth, none)
        counted = [_counted(x.view(len(batch.id), -1), none + 1)[:, :-1] for x in (right, found, truth)]
        return torch.stack(counted, dim=1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 3 c"]) -> Float[Tensor, ""]:
        return _iou(scores).nanmean()

    def breakdown(self, scores: Float[Tensor, "b 3 c"]) -> dict[str, Float[Tensor, ""]]:
        """The figure of every class that is labelled or found anywhere."""
        return {name: iou for name, iou in zip(self.space.names, _iou(scores), strict=True) if not iou.isnan()}


def _iou(scores: Float[Tensor, "b 3 c"]) -> Float[Tensor, " c"]:
    right, found, truth = scores.double().sum(0)
    return right / (found + truth - right)


def _counted(labels: Int[Tensor, "b n"], bins: int) -> Float[Tensor, "b c"]:
    """How often each label comes up in each row; exact in float32 up to 16 million pixels."""
    zeros = torch.zeros(len(labels), bins, device=labels.device)
    return zeros.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))


def _space(labels: dict[int, str], classes: tuple[str, ...], segmenter: str) -> Space:
    """
    Raises:
        BadConfig: it does not know a class.
    """
    known = space(labels, classes)
    if isinstance(known, Space):
        return known
    raise BadConfig(
        f"metrics.miou.segmenter={segmenter} knows {len(labels)} labels, but not {len(known)} of the data set's "
        f"{len(classes)} classes, such as '{known[0]}'; name a segmenter that was trained on this data set."
    )
