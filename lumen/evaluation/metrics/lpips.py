"""LPIPS: how different are samples of one layout and caption from one another? (Zhang et al. 2018, arXiv:1801.03924)"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.evaluation.feature_extractors import Scaling, suffix, timm_network

TRUNKS = ("alex", "vgg", "squeeze")


@metrics.register
class Diversity(Metric):
    """The mean over images of the mean distance among their samples; every sample's features are computed once.

    Args:
        trunk: "alex", "vgg" or "squeeze", torchvision's network under the published linear layers; or a timm
            folder or "scenes": then the sum over channels and mean over stages, which is no LPIPS and is named
            lpips-scenes.
    """

    higher_is_better = True
    samples_per_image = 2

    def __init__(self, trunk: str = "alex"):
        network = _published(trunk) if trunk in TRUNKS else Stages(trunk)
        # The channels of a place, which are summed and pooled together, side by side: a fifth of the time is gained.
        super().__init__(network.to(memory_format=torch.channels_last))
        self.trunk = trunk

    @property
    def key(self) -> str:
        return super().key + ("" if self.trunk in TRUNKS else suffix(self.trunk))

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, " b"]:
        features = [_stages(self.evaluator, sample) for sample in generated.unbind(1)]
        pairs = [_distance(self.evaluator, one, other) for one, other in combinations(features, 2)]
        return torch.stack(pairs).mean(0)

    @staticmethod
    def aggregate(scores: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return scores.double().mean()


class Stages(nn.Module):
    """A timm network in the place of LPIPS's trunk, every channel of weight 1 / (stages)."""

    def __init__(self, weights: str):
        super().__init__()
        self.net, card = timm_network(weights, features_only=True)
        self.scaling_layer = Scaling(card)
        self.lins = [lambda gap: gap.sum(1, keepdim=True) / len(self.net.feature_info)] * len(self.net.feature_info)


def _published(trunk: str) -> nn.Module:
    """
    Raises:
        WeightsMissing: torchvision's trunk is not in torch's cache and could not be fetched.
    """
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=trunk).net
    except OSError as error:
        raise WeightsMissing(
            f"LPIPS's trunk '{trunk}' is neither in {torch.hub.get_dir()} nor could it be fetched ({error}); run the "
            "command once where there is a network, or give metrics.lpips.trunk=FOLDER of a timm network."
        ) from None


def _stages(trunk: nn.Module, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
    """Features of every stage, of length 1 at every place."""
    return [nn.functional.normalize(f, dim=1, eps=1e-8) for f in trunk.net(trunk.scaling_layer(image))]


def _distance(trunk: nn.Module, one: list[Tensor], other: list[Tensor]) -> Float[Tensor, " b"]:
    # The layers are linear, so the mean over places may come before them.
    gaps = [lin(((a - b) ** 2).mean((2, 3), keepdim=True)) for lin, a, b in zip(trunk.lins, one, other, strict=True)]
    return torch.cat(gaps, dim=1).sum((1, 2, 3))
