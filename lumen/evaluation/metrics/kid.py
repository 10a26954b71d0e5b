"""KID: how far apart are samples and real images, whatever their number? (Bińkowski et al. 2018, arXiv:1801.01401)"""

from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.bootstrap import influence_bootstrap
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import features, suffix


@metrics.register
class KernelDistance(Metric):
    """1000 times the squared maximum mean discrepancy of features under the kernel (x.y / c + 1)^3; it may be negative.

    Its expectation does not depend on the number of images. To that end every pair is of two different images: an
    image is more like its own samples than like a stranger's. torch-fidelity and clean-fid take the mean over random
    subsets instead, whose pairs of an image with its own samples lower it; without such a bond the expectation of
    both is the same.

    Args:
        network: "inception", the published one; or "scenes" or a timm folder, which is no KID and is named kid-scenes.
        resize: images for Inception "clean" as clean-fid does, or "original" as torch-fidelity and pytorch-fid do.

    Source: Gretton et al. 2012, equation 4, times 1000 as tables print it (Karras et al. 2020, arXiv:2006.06676).
    """

    higher_is_better = False

    def __init__(self, network: str = "inception", resize: Literal["clean", "original"] = "clean"):
        super().__init__(features(network, resize))
        self.network = network

    @property
    def key(self) -> str:
        return super().key + ("" if self.network == "inception" else suffix(self.network))

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b m c"]:
        """Features of the image, then of its samples: m is n + 1."""
        made = [self.evaluator(some) for some in generated.unbind(1)]
        return torch.stack([self.cached_reference(batch, self.evaluator), *made], dim=1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b m c"]) -> Float[Tensor, ""]:
        return _pairs(scores).sum() / (len(scores) * (len(scores) - 1))

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b m c"]) -> Float[Tensor, " draws"]:
        alone = _pairs(scores).sum(1) / (len(scores) - 1)
        return influence_bootstrap(alone.mean(), 2 * (alone - alone.mean()), cls.num_resamples)


def _pairs(scores: Float[Tensor, "b m c"]) -> Float[Tensor, "b b"]:
    """What every pair of different images brings: both real, plus both painted, less one real and the other painted."""
    share = [1.0, *[-1 / (scores.shape[1] - 1)] * (scores.shape[1] - 1)]
    sides = list(zip(share, scores.double().unbind(1), strict=True))
    kernels = (s * t * (x @ y.T / scores.shape[2] + 1) ** 3 for (s, x), (t, y) in product(sides, repeat=2))
    return 1000 * sum(kernels).fill_diagonal_(0)
