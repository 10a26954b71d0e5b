"""MAE (He et al. 2022, arXiv:2111.06377): ViT that reconstructs masked pixels, ImageNet-1k."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def mae(
    size: Literal["tiny", "base", "large", "huge"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=4, base=12, large=24, huge=32)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the normalised patch tokens of MAE's encoder, which sees the whole image.

    Args:
        size: Patches have 14 px in huge, and 16 px in the others.
        weights: "published", "none", a timm folder or a hub id. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    patch = 14 if size == "huge" else 16
    architecture = f"vit_{'base' if size == 'tiny' else size}_patch{patch}_224.mae"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("mae", architecture, layer, facet, fit, weights, revision, tiny=tiny)
