"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193): self-supervised ViT/14, LVD-142M."""

from typing import Literal

from lumen.core.registry import backbones
from lumen.features.vit import ViT, vit


@backbones.register
def dinov2(
    size: Literal["tiny", "small", "base", "large", "giant"] = "base",
    registers: bool = False,
    layer: int | list[int] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> ViT:
    """Normalised patch tokens; `registers` are the four extra tokens of arXiv:2309.16588.

    No common image size is a multiple of the patch, so images are resized to the nearest: 512 to
    518, which is 37 x 37 cells. `weights`: published, none, scenes, a timm folder (which has its own
    size and registers) or a hub id. timm's conversions carry no release, and their commits could
    not be looked up where this was written: pin one with `revision`.
    """
    shape = f"{'small' if size == 'tiny' else size}_patch14{'_reg4' if registers else ''}"
    return vit("dinov2", f"vit_{shape}_dinov2.lvd142m", size == "tiny", layer, facet, fit, weights, revision)
