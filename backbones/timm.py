"""Any network of timm with feature maps: Vision Transformers and convolutional networks, by timm's name."""

from typing import Annotated, Literal

from torch import nn

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.timm_loading import build_timm_backbone, find_weight_file, load_weight_file, require_model
from lumen.features.timm_network import TimmNetwork


@backbones.register
def timm(
    model: str,
    layer: Annotated[int | list[int], LayerRange()] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TimmNetwork:
    """Return the features of a network of timm; its own card says how images are normalised.

    Args:
        model: timm's name, such as vit_base_patch16_siglip_512.v2_webli; the tag after the point selects the weights.
        layer: Blocks of a Vision Transformer, or stages of a network whose maps become coarser, from 0; -1 is the last.
        facet: Keys and values exist in networks whose blocks attend to all tokens.
        fit: Resize images to sides that the network takes. Some networks take one size alone.
        weights: "published", "none", a timm folder, a hub id, or a file .safetensors or .pth of the model's tensors.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    require_model(model)
    file = find_weight_file(weights)
    weights = "none" if file else weights
    backbone = build_timm_backbone("timm", model, layer, facet, fit, weights, revision, kind=nn.Module)
    if file:
        load_weight_file(backbone.net, model, file)
    return backbone
