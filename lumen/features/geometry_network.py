"""Network for disparity and 3D boxes: a SegFormer whose features three small heads read."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.features.box_coding import CODES, SIZE
from lumen.features.segformer import build_segformer

PRIOR_LOGIT = -4.6  # of a class in a cell: 1 %, as in RetinaNet
GROUPS = 8  # of a group norm


class GeometryMaps(NamedTuple):
    """Predictions for the pixels and cells of images.

    Attributes:
        disparity: Pixels of the image.
        label: Logit of each class of boxes.
        centerness: Logit of the nearness to the anchor of a box.
        code: Coded box (see `box_coding`); its size is relative to the mean of the class.
    """

    disparity: Float[Tensor, "b H W"]
    label: Float[Tensor, "b c h w"]
    centerness: Float[Tensor, "b h w"]
    code: Float[Tensor, "b 12 h w"]


class GeometryNetwork(nn.Module):
    """SegFormer encoder and its all-MLP features, with heads for disparity, classes and boxes.

    The features have a quarter of the image's size, or half of it in a tiny network.

    Args:
        weights: A folder or hub id whose encoder is taken; or "none".
        size: Architecture where weights is "none": a key of `lumen.features.segformer.SIZES`.
        classes: Classes of boxes.
    """

    def __init__(self, weights: str, size: str, classes: tuple[str, ...]):
        super().__init__()
        self.segformer = build_segformer(weights, size, classes)
        width = self.segformer.config.decoder_hidden_size
        self.segformer.decode_head.classifier = nn.Identity()
        self.disparity_head = _head(width, 1)
        self.label_head = _head(width, len(classes))
        self.box_head = _head(width, 1 + CODES)
        self.class_size = nn.Parameter(torch.zeros(len(classes), SIZE.stop - SIZE.start))  # log metres
        nn.init.constant_(self.label_head[-1].bias, PRIOR_LOGIT)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> GeometryMaps:
        """Return the predictions for images that are normalised as the encoder expects it."""
        features = self.segformer(image).logits
        disparity = F.softplus(self.disparity_head(features))
        disparity = F.interpolate(disparity, image.shape[-2:], mode="bilinear", align_corners=False)
        centerness, code = self.box_head(features).split([1, CODES], dim=1)
        return GeometryMaps(disparity[:, 0], self.label_head(features), centerness[:, 0], code)


def _head(width: int, outputs: int) -> nn.Sequential:
    layers = [
        layer
        for _ in range(2)
        for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.GELU())
    ]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 1))
