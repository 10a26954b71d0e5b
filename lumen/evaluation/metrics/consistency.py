"""Consistency: distance of the same edit under several noises (our definition)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation.edits import PerceptualEditMetric, all_pairs, edited_region


@metrics.register
class Consistency(PerceptualEditMetric):
    """Mean masked LPIPS, over directions and pairs of noises, of the edited class under the same direction.

    Directions that do nothing are not told from good ones by it: read it beside the diversity.

    Args:
        trunk: "alex", "vgg" or "squeeze"; or a timm folder or "scenes": then the metric is named consistency-scenes.
    """

    output_kind = "edits"
    display_name = "consistency"
    higher_is_better = False
    samples_per_image = 2

    def __init__(self, trunk: str = "vgg", *, classes: tuple[str, ...]):
        super().__init__(trunk, classes)

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n m 4 H W"]) -> Float[Tensor, "b 2"]:
        """Return the mean distance of each image, and the class."""
        by_direction = list(zip(*self.features(generated), strict=True))[1:]
        mask = edited_region(generated)
        distances = [self.mean_distance(all_pairs(list(noises)), mask) for noises in by_direction]
        return self.with_class(batch, generated, torch.stack(distances).mean(0))
