"""MiDaS inverse depth (Ranftl et al. 2020, 2021): near pixels are bright, as in ControlNet's annotator."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings
from lumen.features.dense_prediction import DensePredictor

METRIC_MODELS = ("glpn", "zoedepth", "depth_pro")  # of transformers, which predict metres


@conditionings.register
class InverseDepth(Conditioning):
    """Relative inverse depth, in each image from 0 at its farthest pixel to 1 at its nearest.

    Args:
        weights: Folder or hub id of a transformers model for depth estimation that predicts inverse depth, or "scenes".
        revision: Commit, tag or branch of a hub id; None is its main branch.

    Raises:
        WeightsMissing: The weights do not exist, cannot be read, or belong to another task.
    """

    channels = 1

    def __init__(self, weights: str = "Intel/dpt-hybrid-midas", revision: str | None = None):
        midas = DensePredictor(weights, "midas", "DepthEstimation", revision)
        config = midas.network.config
        if config.model_type in METRIC_MODELS or getattr(config, "depth_estimation_type", "relative") == "metric":
            raise WeightsMissing(
                f"the weights of midas in '{weights}' predict depth in metres ({config.model_type}), which is largest "
                "where the inverse depth of the layout is smallest; give a model of inverse depth, or scenes."
            )
        super().__init__(midas=midas)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        """Return the normalised inverse depth, always in fp32."""
        with torch.autocast(batch.image.device.type, enabled=False):
            depth = self.networks["midas"].depth(batch.image)[:, None]
        low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
        # An image of constant depth is all 0, not 0 / 0.
        return (depth - low) / (high - low).clamp(min=1e-6)
