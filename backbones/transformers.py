"""Any vision network of transformers: what timm lacks, such as V-JEPA 2 or the encoder of Depth Anything."""

from typing import Annotated, Literal

from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.features.transformers_loading import build_transformers_backbone
from lumen.features.transformers_network import TransformersNetwork


@backbones.register
def transformers(
    model: str,
    layer: Annotated[int | list[int], LayerRange()] = -1,
    facet: Literal["token", "key", "value"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> TransformersNetwork:
    """Return the features of the vision part of a model; its own preprocessing says how colours are normalised.

    Args:
        model: Folder or hub id, such as facebook/vjepa2-vitl-fpc64-256. A model that comes with code is refused.
        layer: Layers of the vision part, from 0; -1 is the last.
        facet: Keys and values exist where a layer projects them apart.
        fit: Resize images to the nearest multiple of the coarsest cell. V-JEPA 2 takes its own size alone.
        weights: "published" for those of the model, "none" for its architecture alone, or another folder or hub id.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    return build_transformers_backbone("transformers", model, None, layer, facet, fit, weights, revision)
