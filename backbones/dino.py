"""DINO (Caron et al. 2021, arXiv:2104.14294): self-supervised ViT/8 and ViT/16, ImageNet-1k."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def dino(
    size: Literal["tiny", "small", "base"] = "base",
    patch: Literal[8, 16] = 16,
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=12, base=12, scenes=6)] = -1,
    facet: Literal["token", "key", "value"] = "key",
    fit: bool = False,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the keys of DINO's last layer, the usual dense DINO features (Amir et al. 2021, arXiv:2112.05814).

    Args:
        weights: "published", "none", "scenes", a timm folder or a hub id. A folder has its own size and patch.
        revision: Commit, tag or branch of a hub id; None is its main branch. timm's conversions have no releases, so
            only a commit pins them.
    """
    architecture = f"vit_{'small' if size == 'tiny' else size}_patch{patch}_224.dino"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("dino", architecture, layer, facet, fit, weights, revision, tiny=tiny)
