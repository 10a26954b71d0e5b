"""EVA-02 (Fang et al. 2023, arXiv:2303.11331): ViT/14 that predicts CLIP's features of masked patches."""

from typing import Annotated, Literal

from timm.models import Eva

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork


@backbones.register
def eva02(
    size: Literal["tiny", "small", "base", "large"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=12, base=12, large=24)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the patch tokens of EVA-02 after masked image modelling, without fine-tuning on labels.

    Args:
        size: Large was trained on 38 million images of several data sets, the others on ImageNet-22k.
        weights: "published", "none", a timm folder or a hub id. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    training = "mim_m38m" if size == "large" else "mim_in22k"
    architecture = f"eva02_{'small' if size == 'tiny' else size}_patch14_224.{training}"
    tiny = TINY_CONFIG if size == "tiny" else None
    return build_timm_backbone("eva02", architecture, layer, facet, fit, weights, revision, tiny=tiny, kind=Eva)
