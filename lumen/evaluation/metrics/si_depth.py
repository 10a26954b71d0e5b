"""SI depth: does the sample have the depth of its reference, up to one scale? By one network on both."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.features.dense_prediction import Evaluator

LEAST = 1e-3  # of an image's mean: relative depths can touch zero, where a logarithm ends


@metrics.register
class ScaleInvariantDepth(Metric):
    """100 times the standard deviation, over the pixels of an image, of the log ratio of two depths; the mean of it.

    An inverse depth, as MiDaS and DPT give, has the same error as a depth: only the sign of the logarithm differs.

    Args:
        depth: a folder or hub id of a transformers depth estimation model, or "scenes".

    Source: Eigen et al. 2014, equation 1, as KITTI's SILog reports it (times 100, square root).
    """

    higher_is_better = False

    def __init__(self, depth: str = "Intel/dpt-large", revision: str | None = None):
        super().__init__(Evaluator(depth, "depth", "DepthEstimation", revision))

    def seen(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Depth or inverse depth, above zero, in units of its own."""
        depth = self.evaluator.depth(images)
        return depth.maximum(LEAST * depth.mean((1, 2), keepdim=True).clamp(min=LEAST))

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, " b"]:
        reference = self.cached_reference(batch, self.seen).log()
        ratios = torch.stack([self.seen(some).log() - reference for some in generated.unbind(1)], dim=1)
        return 100 * ratios.flatten(2).std(2, correction=0).mean(1)

    @staticmethod
    def aggregate(scores: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return scores.double().mean()
