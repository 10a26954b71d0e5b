"""Backbone: frozen network that maps an image to dense features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.interfaces.script import FeatureScript, WeightsExpression
from lumen.core.resize import resize


class Backbone(nn.Module):
    """Frozen network that maps an image to dense features.

    Subclasses set the attributes and implement `feature_maps`. Several maps of different resolution form one feature
    once the coarser maps are resized to the finest and concatenated.

    Attributes:
        map_channels: Channels of each feature map.
        stride: Image pixels per cell of the finest map.
        identity: Name, arguments and hash of the weights; a PCA basis belongs to one identity.
        final_conv: Name of the convolution that yields the finest map, if there is one; a projection may be fused
            into it.
        source: Folder of the weights; "" if they are untrained.
    """

    map_channels: tuple[int, ...]
    stride: int
    identity: dict[str, str]
    final_conv: str | None = None
    source: str = ""

    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return feature maps (b, c_i, h_i, w_i) of an image in [-1, 1], the finest last.

        Raises:
            BadSize: The network cannot take this size; the message names sizes that it can.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement feature_maps()")

    def script(self, size: int, locate: WeightsExpression) -> FeatureScript | None:
        """Return code that computes the features of images of a size without LUMEN; None if there is none."""
        return None

    @property
    def channels(self) -> int:
        """Channels of the concatenated feature."""
        return sum(self.map_channels)

    def features(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Return all feature maps, resized to the finest and concatenated."""
        maps = self.feature_maps(image)
        return torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)

    def freeze(self) -> "Backbone":
        """Return self in evaluation mode, without trainable parameters."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: a frozen network has no training mode."""
        return super().train(False)
