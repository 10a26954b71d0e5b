"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): convolutional network of four stages."""

from typing import Annotated, Literal

from timm.models import ConvNeXt

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import build_timm_backbone
from lumen.features.timm_network import TimmNetwork

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}


@backbones.register
def convnext(
    size: Literal["tiny", "small", "base", "large"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=4, base=4, large=4)] = 2,
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the output of ConvNeXt's third stage, whose cells have 16 px like those of a ViT/16.

    Args:
        size: The published ConvNeXt-T, which is larger than tiny, is backbone=timm backbone.model=convnext_tiny.
        layer: Stages, from 0; their cells have 4, 8, 16 and 32 px. Maps of several are resized to the finest.
        weights: "published", which learnt to classify ImageNet-22k, "none", a timm folder or a hub id, such as
            timm/convnext_base.dinov3_lvd1689m. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    architecture = f"convnext_{'small' if size == 'tiny' else size}.fb_in22k"
    tiny = TINY if size == "tiny" else None
    return build_timm_backbone(
        "convnext", architecture, layer, "token", fit, weights, revision, tiny=tiny, kind=ConvNeXt
    )
