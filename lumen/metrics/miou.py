"""mIoU: does a segmenter find in the samples what the labels of the reference say?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.contracts import IGNORE, Batch, Metric
from lumen.errors import BadConfig
from lumen.metrics._evaluator import Evaluator
from lumen.registry import metrics


@metrics.register
class MeanIoU(Metric):
    """Intersection over union of every class, over all pixels of all images together, then the mean over classes.

    Classes that are neither labelled nor found count for nothing; unlabelled pixels are left out.

    Args:
        segmenter: a folder or hub id of a transformers semantic or universal segmentation model that knows
            the classes of the data set by name, or "scenes".

    Source: the definition of cityscapesScripts' evalPixelLevelSemanticLabeling.py.
    """

    higher_is_better = True

    def __init__(self, segmenter: str, revision: str | None = None, *, classes: tuple[str, ...]):
        super().__init__(Evaluator(segmenter, "segmenter", "Segmentation", revision))
        self.classes = classes
        self.meaning = _meaning(self.evaluator.network.config.id2label, classes, segmenter)

    def found(self, images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """The class of every pixel, by the processor's own rule; as many as there are classes where it is none."""
        output = self.evaluator(images)
        labels = self.evaluator.processor.post_process_semantic_segmentation(output, [size] * len(images))
        return self.meaning.to(images.device)[torch.stack(labels)]

    def each(self, batch: Batch, painted: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b 3 c"]:
        """Pixels of each class per image: rightly found, found, labelled."""
        count = painted.shape[1]
        truth = batch.mask.repeat_interleave(count, dim=0)
        found = self.found(painted.flatten(0, 1), tuple(truth.shape[-2:]))
        bins = len(self.classes) + 1
        found, truth = (torch.where(truth == IGNORE, len(self.classes), x) for x in (found, truth))
        right = torch.where(found == truth, truth, len(self.classes))
        counted = [_counted(x.view(len(batch.id), -1), bins)[:, :-1] for x in (right, found, truth)]
        return torch.stack(counted, dim=1)

    @staticmethod
    def figure(rows: Float[Tensor, "b 3 c"]) -> Float[Tensor, ""]:
        right, found, truth = rows.double().sum(0)
        return (right / (found + truth - right)).nanmean()


def _counted(labels: Int[Tensor, "b n"], bins: int) -> Float[Tensor, "b c"]:
    """How often each label comes up in each row; exact in float32 up to 16 million pixels."""
    zeros = torch.zeros(len(labels), bins, device=labels.device)
    return zeros.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))


def _meaning(labels: dict[int, str], classes: tuple[str, ...], segmenter: str) -> Int[Tensor, " labels"]:
    """For each label of the segmenter the class of the data set, and one more than there are where it has none.

    Raises:
        BadConfig: it does not know a class.
    """
    place = {name.strip().lower(): i for i, each in enumerate(classes) for name in (each, *each.split(","))}
    meaning = [len(classes)] * (max(labels) + 1)
    for number, label in labels.items():
        known = [place[n.strip().lower()] for n in (label, *label.split(",")) if n.strip().lower() in place]
        meaning[number] = known[0] if known else len(classes)
    if missing := [name for i, name in enumerate(classes) if i not in meaning]:
        raise BadConfig(
            f"metrics.miou.segmenter={segmenter} knows {len(labels)} labels, but not {len(missing)} of the data set's "
            f"{len(classes)} classes, such as '{missing[0]}'; name a segmenter that was trained on this data set."
        )
    return torch.tensor(meaning)
