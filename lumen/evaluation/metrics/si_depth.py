"""SI depth: scale-invariant error of the depth of generated images against that of their references."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.features.dense_prediction import DensePredictor

MIN_RELATIVE_DEPTH = 1e-3  # of an image's mean: a relative depth may reach zero, which has no logarithm


@metrics.register
class ScaleInvariantDepth(Metric):
    """Mean over images of 100 times the standard deviation, over pixels, of the log ratio of two depths.

    One network predicts the depth of both images. An inverse depth, as MiDaS and DPT return, has the same error as a
    depth: only the sign of the logarithm differs.

    Args:
        depth: A folder or hub id of a transformers depth estimation model, or "scenes".

    Source: Eigen et al. 2014, equation 1, as KITTI's SILog reports it (times 100, square root).
    """

    display_name = "SI depth"
    higher_is_better = False
    evaluator_gflop = {"Intel/dpt-large": 516}

    def __init__(self, depth: str = "Intel/dpt-large", revision: str | None = None):
        super().__init__(DensePredictor(depth, "depth", "DepthEstimation", revision))

    def positive_depth(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return depth or inverse depth, above zero, in arbitrary units."""
        depth = self.evaluator.depth(images)
        return depth.maximum(MIN_RELATIVE_DEPTH * depth.mean((1, 2), keepdim=True).clamp(min=MIN_RELATIVE_DEPTH))

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b n"]:
        """Return the error of each sample; in float64, 100 times a float32 is exact."""
        reference = self.cached_reference(batch, self.positive_depth).log()
        samples = generated.unbind(1)
        log_ratios = torch.stack([self.positive_depth(images).log() - reference for images in samples], dim=1)
        return 100 * log_ratios.flatten(2).std(2, correction=0).double()

    @staticmethod
    def combine(scores: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the mean over samples, in float32, to the bits of earlier releases."""
        return 100 * (scores / 100).float().mean(1)

    @staticmethod
    def aggregate(scores: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the mean over images."""
        return scores.double().mean()
