"""The covariance of every cell of three layers, a quarter of SD's width: 320 at 16² and 32², 160 at 64²."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lumen.features.joint_moments import joint

PEER = "resized to 64², concatenated, centred, X'X"
LIBRARIES = ("torch",)
ROUNDS = 9
APART = 1e-5
TARGET = 5
FLOPS = 4.0


def inputs(small: bool = False) -> tuple:
    draw, images = torch.Generator().manual_seed(0), 1 if small else 8
    return ([torch.randn(images, c, s, s, generator=draw) + 1 for c, s in ((320, 16), (320, 32), (160, 64))],)


def peer(maps: list[Tensor]) -> list[Tensor]:
    vectors = torch.cat([F.interpolate(m, (64, 64), mode="bilinear") for m in maps], dim=1).movedim(1, -1).flatten(0, 2)
    mean = vectors.mean(0)
    vectors -= mean
    return [mean, vectors.T @ vectors]


def ours(maps: list[Tensor]) -> list[Tensor]:
    return list(joint(maps)[1:])
