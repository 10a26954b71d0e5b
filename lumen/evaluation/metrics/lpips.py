"""LPIPS: perceptual distance among samples of one layout and caption (Zhang et al. 2018, arXiv:1801.03924)."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import ScalingLayer, key_suffix, load_timm_network

TRUNKS = ("alex", "vgg", "squeeze")


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

    def __init__(self, trunk: str = "alex"):
        network = _load_published(trunk) if trunk in TRUNKS else TimmTrunk(trunk)
        # Channels last puts the channels of a position, which are summed, side by side: it saves a fifth of the time.
        super().__init__(network.to(memory_format=torch.channels_last))
        self.trunk = trunk

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return super().key + ("" if self.trunk in TRUNKS else key_suffix(self.trunk))

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b n n"]:
        """Return the distance of each sample to every sample of the same image."""
        features = [_stages(self.evaluator, images) for images in generated.unbind(1)]
        scores = torch.zeros(len(generated), len(features), len(features), device=generated.device)
        for i, j in combinations(range(len(features)), 2):
            scores[:, i, j] = scores[:, j, i] = _distance(self.evaluator, features[i], features[j])
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


class TimmTrunk(nn.Module):
    """A timm network as LPIPS's trunk; every channel has the weight 1 / (number of stages).

    Args:
        weights: "scenes", a timm folder or a hub id.
    """

    def __init__(self, weights: str):
        super().__init__()
        self.net, card = load_timm_network(weights, features_only=True)
        self.scaling_layer = ScalingLayer(card)
        self.lins = [lambda gap: gap.sum(1, keepdim=True) / len(self.net.feature_info)] * len(self.net.feature_info)


def _load_published(trunk: str) -> nn.Module:
    """Load the published network.

    Raises:
        WeightsMissing: torchvision's trunk is not in torch's cache and could not be fetched.
    """
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=trunk).net
    except OSError as error:
        raise WeightsMissing(
            f"LPIPS's trunk '{trunk}' is not in {torch.hub.get_dir()} and could not be fetched ({error}); run the "
            "command once where there is a network, or give metrics.lpips.trunk=FOLDER of a timm network."
        ) from None


def _stages(network: nn.Module, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
    """Return the features of every stage, normalised to unit length at every position."""
    return [nn.functional.normalize(f, dim=1, eps=1e-8) for f in network.net(network.scaling_layer(image))]


def _distance(network: nn.Module, first: list[Tensor], second: list[Tensor]) -> Float[Tensor, " b"]:
    # The layers are linear, so the mean over positions may come before them.
    gaps = [
        layer(((a - b) ** 2).mean((2, 3), keepdim=True))
        for layer, a, b in zip(network.lins, first, second, strict=True)
    ]
    return torch.cat(gaps, dim=1).sum((1, 2, 3))
