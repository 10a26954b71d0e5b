"""Perceptual distance (LPIPS, Zhang et al. 2018, arXiv:1801.03924): networks, and distances of images or regions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from lumen.core.errors import WeightsMissing
from lumen.evaluation.feature_extractors import ScalingLayer, load_timm_network

TRUNKS = ("alex", "vgg", "squeeze")


def load_perceptual_network(trunk: str) -> nn.Module:
    """Return LPIPS's network under the name of its trunk, or a timm network in its place.

    Raises:
        WeightsMissing: The weights do not exist or cannot be read.
    """
    network = _load_published(trunk) if trunk in TRUNKS else TimmTrunk(trunk)
    # Channels last puts the channels of a position, which are summed, side by side: it saves a fifth of the time.
    return network.to(memory_format=torch.channels_last)


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


def perceptual_features(network: nn.Module, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
    """Return the features of every stage, normalised to unit length at every position."""
    return [F.normalize(f, dim=1, eps=1e-8) for f in network.net(network.scaling_layer(image))]


def perceptual_distance(network: nn.Module, first: list[Tensor], second: list[Tensor]) -> Float[Tensor, " b"]:
    # The layers are linear, so the mean over positions may come before them.
    gaps = [
        layer(((a - b) ** 2).mean((2, 3), keepdim=True))
        for layer, a, b in zip(network.lins, first, second, strict=True)
    ]
    return torch.cat(gaps, dim=1).sum((1, 2, 3))


def masked_distance(
    network: nn.Module, first: list[Tensor], second: list[Tensor], mask: Float[Tensor, "b H W"]
) -> Float[Tensor, " b"]:
    """Return the distance whose mean over positions is weighted by a mask; 0 where the mask is empty.

    The mask of each stage has the share of the mask in each of its cells.
    """
    distance = mask.new_zeros(len(mask))
    for layer, a, b in zip(network.lins, first, second, strict=True):
        weight = F.adaptive_avg_pool2d(mask[:, None], tuple(a.shape[-2:]))
        total = weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
        gap = ((a - b) ** 2 * weight).sum((2, 3), keepdim=True) / total
        distance = distance + layer(gap).sum((1, 2, 3))
    return distance
