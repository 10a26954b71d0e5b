"""I-JEPA (Assran et al. 2023, arXiv:2301.08243): ViT that predicts features of masked blocks, ImageNet."""

from typing import Annotated, Literal

from transformers import IJepaConfig

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.transformers_loading import build_transformers_backbone
from lumen.features.transformers_network import TransformersNetwork

# By size: hub id, and what differs from a ViT of 12 layers and 768 channels.
ARCHITECTURES = {
    "tiny": (None, {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}),
    "huge": ("facebook/ijepa_vith14_1k", {"patch_size": 14}),
    "huge22k": ("facebook/ijepa_vith14_22k", {"patch_size": 14}),
    "huge448": ("facebook/ijepa_vith16_1k", {"patch_size": 16, "image_size": 448}),
    "giant": (
        "facebook/ijepa_vitg16_22k",
        {"hidden_size": 1408, "num_hidden_layers": 40, "intermediate_size": 6144, "patch_size": 16},
    ),
}
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}


@backbones.register
def ijepa(
    size: Literal["tiny", "huge", "huge22k", "huge448", "giant"] = "huge",
    layer: Annotated[int | list[int], LayerRange(tiny=4, huge=32, huge22k=32, huge448=32, giant=40)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TransformersNetwork:
    """Return the normalised patch tokens of I-JEPA's target encoder; it has no class token.

    Args:
        size: ViT-H/14 trained on ImageNet-1k (huge) or 22k (huge22k), H/16 at 448 pixels (huge448), or G/16 (giant).
        weights: "published", "none", a transformers folder or a hub id. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    hub_id, changes = ARCHITECTURES[size]
    config = IJepaConfig(**{**HUGE, **changes})
    return build_transformers_backbone("ijepa", hub_id, config, layer, facet, fit, weights, revision)
