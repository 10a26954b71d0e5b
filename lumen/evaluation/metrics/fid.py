"""FID: Fréchet distance between features of generated and real images (Heusel et al. 2017, arXiv:1706.08500)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.bootstrap import influence_bootstrap
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import build_feature_extractor, key_suffix


@metrics.register
class FrechetDistance(Metric):
    """Fréchet distance of two normal distributions, fitted to features of real images and of all generated ones.

    It falls with the number of images towards the distance of the distributions, so values are comparable at one
    number of images alone.

    Args:
        network: "inception", the published one; or "scenes" or a timm folder, which is no FID and is named fid-scenes.
        resize: Resizing for Inception: "clean" as clean-fid does, or "original" as torch-fidelity and pytorch-fid do.
    """

    display_name = "FID"
    higher_is_better = False
    compares_distributions = True
    fallback = "kid"
    evaluator_gflop = {"inception": 11.4}

    def __init__(self, network: str = "inception", resize: Literal["clean", "original"] = "clean"):
        super().__init__(build_feature_extractor(network, resize))
        self.network = network
        # With fewer samples covariances are singular, and the value depends mostly on their number.
        self.min_samples = self.evaluator.channels + 1

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
        """Return the Fréchet distance."""
        return frechet_distance(scores[:, 0], scores[:, 1:].flatten(0, 1))

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b m c"]) -> Float[Tensor, " draws"]:
        """Return bootstrap resamples to first order; those of `Metric` would be biased."""
        return influence_bootstrap(cls.aggregate(scores), _influence(scores), cls.num_resamples)


def frechet_distance(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> Float[Tensor, ""]:
    """Return the squared distance |mean - mean|^2 + trace(A + B - 2 (A B)^(1/2)) for covariances A and B.

    A is R'R for a triangular R, and A B has the eigenvalues of the symmetric R B R'. These are real and not negative,
    and cost a fraction of a square root of A B. With fewer images than features, R has as few rows.

    Source: Dowson and Landau 1982.
    """
    a, b = sorted((a.double(), b.double()), key=len)
    gap, covariance = a.mean(0) - b.mean(0), torch.cov(b.T)
    root = torch.linalg.qr(a - a.mean(0), mode="r").R / (len(a) - 1) ** 0.5
    values = torch.linalg.eigvalsh(root @ covariance @ root.T).clamp(min=0)  # rounding may turn 0 into -1e-16
    return gap @ gap + root.square().sum() + covariance.trace() - 2 * values.sqrt().sum()


def _influence(scores: Float[Tensor, "b m c"]) -> Float[Tensor, " b"]:
    """Return b times the derivative of the distance by the weight of each image.

    X and Y are the centred features. The trace of the square root is the sum of the singular values s of X Y' = U s V'.
    Row i of X contributes sum_k U_ik^2 s_k to it, which grows with the square root of the row's weight.
    """
    a, b = scores[:, 0].double(), scores[:, 1:].flatten(0, 1).double()
    gap = a.mean(0) - b.mean(0)
    x, y = ((features - features.mean(0)) / (len(features) - 1) ** 0.5 for features in (a, b))
    (p, rx), (q, ry) = torch.linalg.qr(x), torch.linalg.qr(y)
    u, values, v = torch.linalg.svd(rx @ ry.T, full_matrices=False)
    u, v = p @ u, q @ v.T
    real = 2 * (a - a.mean(0)) @ gap + len(a) * (x.square().sum(1) - u.square() @ values)
    generated = 2 * (b.mean(0) - b) @ gap + len(b) * (y.square().sum(1) - v.square() @ values)
    influence = real + generated.view(len(scores), -1).mean(1)
    return influence - influence.mean()
