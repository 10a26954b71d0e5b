"""Metrics of edits: perceptual distances inside and outside of the class that edits of an image change."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.interfaces import Batch, Metric
from lumen.evaluation.feature_extractors import key_suffix
from lumen.evaluation.perceptual import TRUNKS, load_perceptual_network, masked_distance, perceptual_features


class EditMetric(Metric):
    """Metric of the edits of one class of each image.

    Edits (b, n, m, 4, H, W) are those of n noises: the unedited image, and after it the same image under m - 1
    directions. The fourth channel is 1 at the pixels of the class. Scores are a value and the id of the class.

    Args:
        evaluator: Network used for scoring.
        classes: Class names of the data set.
    """

    def __init__(self, evaluator: nn.Module, classes: tuple[str, ...]):
        super().__init__(evaluator)
        self.classes = classes

    def with_class(self, batch: Batch, edits: Float[Tensor, "b n m 4 H W"], values: Tensor) -> Float[Tensor, "*bn 2"]:
        """Return values (b, ...) with the id of the edited class of each image."""
        ids = torch.where(edited_region(edits) > 0, batch.mask.to(edits.device), -1).flatten(1).amax(1)
        ids = ids.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        return torch.stack([values.masked_fill(ids < 0, torch.nan), ids.to(values)], dim=-1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 2"]) -> Float[Tensor, ""]:
        """Return the mean over images that have a value."""
        return scores[:, 0].double().nanmean()

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return the names of the value and of the class."""
        return ["value", "class"]

    def breakdown(self, scores: Float[Tensor, "b 2"]) -> dict[str, Float[Tensor, ""]]:
        """Return the mean of every edited class."""
        means = {name: self.aggregate(scores[scores[:, 1] == i]) for i, name in enumerate(self.classes)}
        return {name: mean for name, mean in means.items() if not mean.isnan()}


class PerceptualEditMetric(EditMetric):
    """Metric of edits by the masked LPIPS: squared differences of features, weighted by a mask.

    Args:
        trunk: "alex", "vgg" or "squeeze"; or a timm folder or "scenes", which is no LPIPS and is named after it.
        classes: Class names of the data set.
    """

    def __init__(self, trunk: str, classes: tuple[str, ...]):
        super().__init__(load_perceptual_network(trunk), classes)
        self.trunk = trunk

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return super().key + ("" if self.trunk in TRUNKS else key_suffix(self.trunk))

    def features(self, edits: Float[Tensor, "b n m 4 H W"]) -> list[list[list[Tensor]]]:
        """Return the features of every noise and edit."""
        images = edits[:, :, :, :3]
        return [[perceptual_features(self.evaluator, x) for x in row.unbind(1)] for row in images.unbind(1)]

    def mean_distance(
        self, pairs: list[tuple[list[Tensor], list[Tensor]]], mask: Float[Tensor, "b H W"]
    ) -> Float[Tensor, " b"]:
        """Return the mean masked distance over pairs of features."""
        return torch.stack([masked_distance(self.evaluator, *pair, mask) for pair in pairs]).mean(0)


def edited_region(edits: Float[Tensor, "b n m 4 H W"]) -> Float[Tensor, "b H W"]:
    """Return 1 at the pixels of the edited class of each image, else 0."""
    return (edits[:, 0, 0, 3] > 0.5).float()


def all_pairs(items: list) -> list[tuple]:
    """Return all pairs of different items."""
    return list(combinations(items, 2))
