"""Perception Encoder (Bolya et al. 2025, arXiv:2504.13181): contrastive ViT of images, video and texts."""

from typing import Annotated, Literal

from timm.models import Eva

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork

ARCHITECTURES = {
    "core": {"small": "small_patch16_384", "base": "base_patch16_224", "large": "large_patch14_336"},
    "spatial": {"small": "small_patch16_512", "base": "base_patch16_512", "large": "large_patch14_448"},
}


@backbones.register
def pe(
    size: Literal["tiny", "small", "base", "large", "giant"] = "base",
    variant: Literal["core", "spatial"] = "spatial",
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=12, base=12)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the normalised patch tokens of the Perception Encoder.

    Args:
        size: The paper calls giant "G". Patches have 14 px in large and giant, and 16 px in the others.
        variant: "core": trained on images and texts. "spatial": aligned to SAM and to its own best layer, for dense
            tasks.
        weights: "published", "none", a timm folder or a hub id. A folder has its own size and variant.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    sizes = ARCHITECTURES[variant] | {"tiny": ARCHITECTURES[variant]["base"], "giant": "gigantic_patch14_448"}
    architecture = f"vit_pe_{variant}_{sizes[size]}.fb"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("pe", architecture, layer, facet, fit, weights, revision, tiny=tiny, kind=Eva)
