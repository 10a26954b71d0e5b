"""SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786): contrastive ViT/16 of images and texts, WebLI."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def siglip2(
    size: Literal["tiny", "base", "large", "so400m", "giant"] = "base",
    resolution: Literal[256, 384] = 256,
    layer: Annotated[int | list[int], LayerRange(tiny=4, base=12, large=24, so400m=27, giant=40)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the normalised patch tokens of SigLIP 2's image tower; it has no class token.

    Args:
        resolution: Image size of the training, in pixels. Position embeddings are resized to the images.
        weights: "published", "none", a timm folder or a hub id. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    variant = {"tiny": "base", "giant": "giantopt"}.get(size, size)
    architecture = f"vit_{variant}_patch16_siglip_{resolution}.v2_webli"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("siglip2", architecture, layer, facet, fit, weights, revision, tiny=tiny)
