"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193): self-supervised ViT/14, LVD-142M."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def dinov2(
    size: Literal["tiny", "small", "base", "large", "giant"] = "base",
    registers: bool = False,
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=12, base=12, large=24, giant=40, scenes=6)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the normalised patch tokens of DINOv2.

    Common image sizes are no multiples of the patch, so images are resized to the nearest: 512 to 518, which gives
    37 x 37 cells.

    Args:
        registers: Use the network with four register tokens (Darcet et al. 2023, arXiv:2309.16588).
        weights: "published", "none", "scenes", a timm folder or a hub id. A folder has its own size and registers.
        revision: Commit, tag or branch of a hub id; None is its main branch. timm's conversions have no releases, so
            only a commit pins them.
    """
    variant = f"{'small' if size == 'tiny' else size}_patch14{'_reg4' if registers else ''}"
    architecture = f"vit_{variant}_dinov2.lvd142m"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("dinov2", architecture, layer, facet, fit, weights, revision, tiny=tiny)
