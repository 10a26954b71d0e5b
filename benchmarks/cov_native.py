"""Covariance of all cells of three layers, a quarter of SD's width: 320 features at 16², 320 at 32², 160 at 64²."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lumen.features.joint_moments import joint_moments

PEER = "resized to 64², concatenated, centred, X'X"
LIBRARIES = ("torch",)
ROUNDS = 9
TOLERANCE = 1e-5
TARGET_SPEEDUP = 5
MIN_FLOP_RATIO = 4.0


def inputs(small: bool = False) -> tuple:
    """Return random feature maps."""
    generator, images = torch.Generator().manual_seed(0), 1 if small else 8
    return ([torch.randn(images, c, s, s, generator=generator) + 1 for c, s in ((320, 16), (320, 32), (160, 64))],)


def peer(maps: list[Tensor]) -> list[Tensor]:
    """Return mean and scatter matrix of resized features."""
    vectors = torch.cat([F.interpolate(m, (64, 64), mode="bilinear") for m in maps], dim=1).movedim(1, -1).flatten(0, 2)
    mean = vectors.mean(0)
    vectors -= mean
    return [mean, vectors.T @ vectors]


def ours(maps: list[Tensor]) -> list[Tensor]:
    """Return mean and scatter matrix without resizing features."""
    return list(joint_moments(maps)[1:])
