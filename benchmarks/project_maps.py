"""Layouts of 20 channels from three layers of Stable Diffusion: 1280 features at 16², 1280 at 32², 640 at 64² cells."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lumen.features.pca import project

PEER = "resized to 64², concatenated, 1x1 convolution with the mean in its bias"
LIBRARIES = ("torch",)
ROUNDS = 9
TOLERANCE = 1e-5
TARGET_SPEEDUP = 60
MIN_FLOP_RATIO = 3.0
BOTTLENECK = (
    "the remaining time is one product with all features, which are read once; it is 26 to 49 times faster, depending "
    "on where a process has them in memory"
)


def inputs(small: bool = False) -> tuple:
    """Return random feature maps and a PCA basis."""
    generator, share = torch.Generator().manual_seed(0), 8 if small else 1
    maps = [torch.randn(2, c // share, s, s, generator=generator) for c, s in ((1280, 16), (1280, 32), (640, 64))]
    channels = 3200 // share
    axes = torch.linalg.qr(torch.randn(channels, 20, generator=generator)).Q
    return maps, torch.randn(channels, generator=generator), axes, torch.rand(20, generator=generator) + 1


def peer(maps: list[Tensor], mean: Tensor, axes: Tensor, scale: Tensor) -> Tensor:
    """Return the layout by resizing and then projecting."""
    joint = torch.cat([F.interpolate(m, (64, 64), mode="bilinear") for m in maps], dim=1)
    weight = (axes / scale).T
    return F.conv2d(joint, weight[:, :, None, None], -weight @ mean)


def ours(maps: list[Tensor], mean: Tensor, axes: Tensor, scale: Tensor) -> Tensor:
    """Return the layout by projecting and then resizing."""
    return project(maps, mean, axes, scale)
