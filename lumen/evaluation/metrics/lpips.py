"""LPIPS: perceptual distance among samples of one layout and caption (Zhang et al. 2018, arXiv:1801.03924)."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import key_suffix
from lumen.evaluation.perceptual import (
    TRUNKS,
    load_perceptual_network,
    perceptual_distance,
    perceptual_features,
)


@metrics.register
class Diversity(Metric):
    """Mean over images of the mean distance between the samples of an image; features are computed once per sample.

    Args:
        trunk: "alex", "vgg" or "squeeze", torchvision's network under the published linear layers; or a timm
            folder or "scenes": then the sum over channels and mean over stages, which is no LPIPS and is named
            lpips-scenes.
    """

    display_name = "LPIPS"
    higher_is_better = True
    samples_per_image = 2
    evaluator_gflop = {"alex": 7.3}  # at 512 px

    def __init__(self, trunk: str = "alex"):
        super().__init__(load_perceptual_network(trunk))
        self.trunk = trunk

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return super().key + ("" if self.trunk in TRUNKS else key_suffix(self.trunk))

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b n n"]:
        """Return the distance of each sample to every sample of the same image."""
        features = [perceptual_features(self.evaluator, images) for images in generated.unbind(1)]
        scores = torch.zeros(len(generated), len(features), len(features), device=generated.device)
        for i, j in combinations(range(len(features)), 2):
            scores[:, i, j] = scores[:, j, i] = perceptual_distance(self.evaluator, features[i], features[j])
        return scores

    @staticmethod
    def combine(scores: Float[Tensor, "b n n"]) -> Float[Tensor, " b"]:
        """Return the mean over all pairs of samples of each image."""
        return torch.stack([scores[:, i, j] for i, j in combinations(range(scores.shape[1]), 2)]).mean(0)

    @classmethod
    def sample_values(cls, scores: Float[Tensor, "b n n"]) -> Float[Tensor, "b n"]:
        """Return the mean distance of each sample to the other samples of the same image."""
        return scores.double().sum(2) / (scores.shape[2] - 1)

    @staticmethod
    def aggregate(scores: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the mean over images."""
        return scores.double().mean()
