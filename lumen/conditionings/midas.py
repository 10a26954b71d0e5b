"""MiDaS inverse depth (Ranftl et al. 2020, 2021): what is near is bright, as ControlNet's annotator draws it."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings
from lumen.features.dense_prediction import Evaluator


@conditionings.register
class InverseDepth(Conditioning):
    """Relative inverse depth, in each image from 0, its farthest pixel, to 1, its nearest.

    Args:
        weights: a folder or hub id of a transformers depth estimation model that gives inverse depth, or "scenes".
        revision: commit, tag or branch of a hub id; None is its main branch.
    """

    channels = 1

    def __init__(self, weights: str = "Intel/dpt-hybrid-midas", revision: str | None = None):
        super().__init__(midas=Evaluator(weights, "midas", "DepthEstimation", revision))

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        with torch.autocast(batch.image.device.type, enabled=False):
            depth = self.networks["midas"].depth(batch.image)[:, None]
        low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
        # an image without depth is all 0, not 0 / 0
        return (depth - low) / (high - low).clamp(min=1e-6)
