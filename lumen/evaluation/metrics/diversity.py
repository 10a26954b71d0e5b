"""Diversity: distance of the edits of one noise by several directions (our definition)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation.edits import PerceptualEditMetric, all_pairs, edited_region


@metrics.register
class EditDiversity(PerceptualEditMetric):
    """Mean masked LPIPS, over noises and pairs of directions, of the edited class under two directions.

    Random directions are fairly diverse: read it beside the consistency.

    Args:
        trunk: "alex", "vgg" or "squeeze"; or a timm folder or "scenes": then the metric is named diversity-scenes.
    """

    output_kind = "edits"
    display_name = "diversity"
    higher_is_better = True

    def __init__(self, trunk: str = "vgg", *, classes: tuple[str, ...]):
        super().__init__(trunk, classes)

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n m 4 H W"]) -> Float[Tensor, "b n 2"]:
        """Return the mean distance of each noise, and the class."""
        mask = edited_region(generated)
        distances = [self.mean_distance(all_pairs(row[1:]), mask) for row in self.features(generated)]
        return self.with_class(batch, generated, torch.stack(distances, dim=1))
