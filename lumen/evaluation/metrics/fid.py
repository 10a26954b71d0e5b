"""FID: how far apart are samples and real images, as a network sees them? (Heusel et al. 2017, arXiv:1706.08500)"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.bootstrap import influence_bootstrap
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import features, suffix


@metrics.register
class FrechetDistance(Metric):
    """The Fréchet distance of two normal distributions: fitted to features of the images, and of all their samples.

    It falls with the number of images, to the distance of the distributions: compare it at one number alone.

    Args:
        network: "inception", the published one; or "scenes" or a timm folder, which is no FID and is named fid-scenes.
        resize: images for Inception "clean" as clean-fid does, or "original" as torch-fidelity and pytorch-fid do.
    """

    higher_is_better = False
    fallback = "kid"

    def __init__(self, network: str = "inception", resize: Literal["clean", "original"] = "clean"):
        super().__init__(features(network, resize))
        self.network = network
        self.min_samples = self.evaluator.width + 1  # else covariances are singular, and the number of samples says most

    @property
    def key(self) -> str:
        return super().key + ("" if self.network == "inception" else suffix(self.network))

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b m c"]:
        """Features of the image, then of its samples: m is n + 1."""
        made = [self.evaluator(some) for some in generated.unbind(1)]
        return torch.stack([self.cached_reference(batch, self.evaluator), *made], dim=1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b m c"]) -> Float[Tensor, ""]:
        return frechet(scores[:, 0], scores[:, 1:].flatten(0, 1))

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b m c"]) -> Float[Tensor, " draws"]:
        return influence_bootstrap(cls.aggregate(scores), _influence(scores), cls.num_resamples)


def frechet(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> Float[Tensor, ""]:
    """The squared distance |mean - mean|^2 + trace(A + B - 2 (A B)^(1/2)), A and B being the covariances.

    A is R'R for a triangular R, and A B has the eigenvalues of R B R', which is symmetric: they are real and not
    negative, and cost a fraction of a root of A B. With fewer images than features R has as few rows.

    Source: Dowson and Landau 1982.
    """
    a, b = sorted((a.double(), b.double()), key=len)
    gap, other = a.mean(0) - b.mean(0), torch.cov(b.T)
    root = torch.linalg.qr(a - a.mean(0), mode="r").R / (len(a) - 1) ** 0.5
    values = torch.linalg.eigvalsh(root @ other @ root.T).clamp(min=0)  # what is 0 comes out as -1e-16 at times
    return gap @ gap + root.square().sum() + other.trace() - 2 * values.sqrt().sum()


def _influence(scores: Float[Tensor, "b m c"]) -> Float[Tensor, " b"]:
    """b times the derivative of the figure by each image's share of the whole.

    The trace of the root is the sum of the singular values s of X Y' = U s V', X and Y being the centred features; row
    i of X has the share sum_k U_ik^2 s_k of it, which grows with the root of the row's weight.
    """
    a, b = scores[:, 0].double(), scores[:, 1:].flatten(0, 1).double()
    gap = a.mean(0) - b.mean(0)
    x, y = ((some - some.mean(0)) / (len(some) - 1) ** 0.5 for some in (a, b))
    (p, one), (q, other) = torch.linalg.qr(x), torch.linalg.qr(y)
    u, values, v = torch.linalg.svd(one @ other.T, full_matrices=False)
    u, v = p @ u, q @ v.T
    real = 2 * (a - a.mean(0)) @ gap + len(a) * (x.square().sum(1) - u.square() @ values)
    made = 2 * (b.mean(0) - b) @ gap + len(b) * (y.square().sum(1) - v.square() @ values)
    influence = real + made.view(len(scores), -1).mean(1)
    return influence - influence.mean()
