"""Segment Anything (Kirillov et al. 2023, arXiv:2304.02643): ViT/16 of the image encoder, SA-1B."""

from typing import Annotated, Literal

from timm.models.vision_transformer_sam import VisionTransformerSAM

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG, build_timm_backbone
from lumen.features.timm_network import TimmNetwork

TINY = {**TINY_CONFIG, "img_size": 64, "global_attn_indexes": (1, 3), "neck_chans": 16}


@backbones.register
def sam(
    size: Literal["tiny", "base", "large", "huge"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=4, base=12, large=24, huge=32)] = -1,
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the image embedding of Segment Anything: the output of its neck, of 256 channels.

    Images keep their size. SAM was trained at 1024 pixels, to which its position embeddings belong; they are resized.

    Args:
        layer: The last one alone gives the image embedding. Other layers, and several, give outputs of the blocks.
        weights: "published", "none", a timm folder or a hub id. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    architecture = f"samvit_{'base' if size == 'tiny' else size}_patch16.sa1b"
    tiny, kind = TINY if size == "tiny" else None, VisionTransformerSAM
    return build_timm_backbone("sam", architecture, layer, "token", fit, weights, revision, tiny=tiny, kind=kind)
