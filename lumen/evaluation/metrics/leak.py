"""Leak: change outside of the edited class as a share of that inside (our definition)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation.edits import PerceptualEditMetric, edited_region

OFFSET = 1e-4  # of both distances, so that an edit that changes nothing has a share


@metrics.register
class Leak(PerceptualEditMetric):
    """Mean masked LPIPS of edited and unedited image outside of the class, as a share of that inside.

    Both are means over directions. An edit that changes nothing inside has a value of 1 or more.

    Args:
        trunk: "alex", "vgg" or "squeeze"; or a timm folder or "scenes": then the metric is named leak-scenes.
    """

    output_kind = "edits"
    display_name = "leak"
    higher_is_better = False

    def __init__(self, trunk: str = "vgg", *, classes: tuple[str, ...]):
        super().__init__(trunk, classes)

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n m 4 H W"]) -> Float[Tensor, "b n 2"]:
        """Return the share of each noise, and the class."""
        mask = edited_region(generated)
        shares = []
        for plain, *edits in self.features(generated):
            pairs = [(plain, edit) for edit in edits]
            outside, inside = (self.mean_distance(pairs, part) for part in (1 - mask, mask))
            is_full = (1 - mask).flatten(1).sum(1) == 0  # nothing is outside
            shares.append(((outside + OFFSET) / (inside + OFFSET)).masked_fill(is_full, torch.nan))
        return self.with_class(batch, generated, torch.stack(shares, dim=1))
