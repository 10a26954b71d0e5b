"""KID: kernel distance between features of generated and real images (Bińkowski et al. 2018, arXiv:1801.01401)."""

from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.bootstrap import influence_bootstrap
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import build_feature_extractor, key_suffix


@metrics.register
class KernelDistance(Metric):
    """1000 times the squared maximum mean discrepancy of features under the kernel (x.y / c + 1)^3; it may be negative.

    Its expectation does not depend on the number of images. To that end every pair is of two different images, because
    a generated image resembles its own reference more than others. torch-fidelity and clean-fid instead average over
    random subsets, whose pairs of an image with its own samples lower the value. Without that resemblance the
    expectations are equal.

    Args:
        network: "inception", the published one; or "scenes" or a timm folder, which is no KID and is named kid-scenes.
        resize: Resizing for Inception: "clean" as clean-fid does, or "original" as torch-fidelity and pytorch-fid do.

    Source: Gretton et al. 2012, equation 4, times 1000 as tables print it (Karras et al. 2020, arXiv:2006.06676).
    """

    display_name = "KID"
    higher_is_better = False
    compares_distributions = True
    evaluator_gflop = {"inception": 11.4}

    def __init__(self, network: str = "inception", resize: Literal["clean", "original"] = "clean"):
        super().__init__(build_feature_extractor(network, resize))
        self.network = network

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return super().key + ("" if self.network == "inception" else key_suffix(self.network))

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b m c"]:
        """Return the features of each reference and, after them, of its n generated images: m is n + 1."""
        features = [self.evaluator(images) for images in generated.unbind(1)]
        return torch.stack([self.cached_reference(batch, self.evaluator), *features], dim=1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b m c"]) -> Float[Tensor, ""]:
        """Return the mean over all pairs of different images."""
        return _pair_terms(scores).sum() / (len(scores) * (len(scores) - 1))

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b m c"]) -> Float[Tensor, " draws"]:
        """Return bootstrap resamples to first order; those of `Metric` would be biased."""
        means = _pair_terms(scores).sum(1) / (len(scores) - 1)
        return influence_bootstrap(means.mean(), 2 * (means - means.mean()), cls.num_resamples)


def _pair_terms(scores: Float[Tensor, "b m c"]) -> Float[Tensor, "b b"]:
    """Return the term of every pair of images: k(real, real) + k(generated, generated) - both k(real, generated)."""
    weights = [1.0, *[-1 / (scores.shape[1] - 1)] * (scores.shape[1] - 1)]
    weighted = list(zip(weights, scores.double().unbind(1), strict=True))
    kernels = (s * t * (x @ y.T / scores.shape[2] + 1) ** 3 for (s, x), (t, y) in product(weighted, repeat=2))
    return 1000 * sum(kernels).fill_diagonal_(0)
