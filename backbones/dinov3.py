"""DINOv3 (Siméoni et al. 2025, arXiv:2508.10104): self-supervised ViT/16 with registers, LVD-1689M."""

from typing import Annotated, Literal

from timm.models import Eva

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def dinov3(
    size: Literal["tiny", "small", "small_plus", "base", "large", "huge_plus", "giant"] = "base",
    layer: Annotated[
        int | list[int], LayerRange(tiny=4, small=12, small_plus=12, base=12, large=24, huge_plus=32, giant=40)
    ] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the normalised patch tokens of DINOv3, without its class and register tokens.

    Args:
        size: The paper calls giant "7B".
        weights: "published", "none", a timm folder or a hub id. A folder has its own size. The published weights have
            a licence of their own, which is accepted on the hub.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    variant = {"tiny": "small", "giant": "7b"}.get(size, size)
    architecture = f"vit_{variant}_patch16_dinov3.lvd1689m"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("dinov3", architecture, layer, facet, fit, weights, revision, tiny=tiny, kind=Eva)
