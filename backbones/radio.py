"""C-RADIO (Heinrich et al. 2025, arXiv:2412.07679): ViT/16 distilled from DINOv2, SigLIP, SAM and others."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def radio(
    size: Literal["tiny", "base", "large", "huge", "giant"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=4, base=12, large=24, huge=32, giant=40)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the patch tokens of C-RADIO, version 3, without its summary and register tokens.

    Args:
        weights: "published", "none", a timm folder or a hub id. A folder has its own size and version.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    architecture = f"vit_{'base' if size == 'tiny' else size}_patch16_radio_v3.c_radio"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("radio", architecture, layer, facet, fit, weights, revision, tiny=tiny)
