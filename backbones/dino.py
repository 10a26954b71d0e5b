"""DINO (Caron et al. 2021, arXiv:2104.14294): self-supervised ViT/8 and ViT/16, ImageNet-1k."""

from typing import Literal

from lumen.core.registry import backbones
from lumen.features.vit import ViT, vit


@backbones.register
def dino(
    size: Literal["tiny", "small", "base"] = "base",
    patch: Literal[8, 16] = 16,
    layer: int | list[int] = -1,
    facet: Literal["token", "key", "value"] = "key",
    fit: bool = False,
    weights: str = "published",
    revision: str | None = None,
) -> ViT:
    """The last layer's keys by default, as dense DINO features are usually read (Amir et al. 2021).

    `weights`: published, none, scenes, a timm folder (which has its own size and patch) or a hub id.
    timm's conversions carry no release, and their commits could not be looked up where this was
    written: pin one with `revision`.
    """
    card = f"vit_{'small' if size == 'tiny' else size}_patch{patch}_224.dino"
    return vit("dino", card, size == "tiny", layer, facet, fit, weights, revision)
