"""Random ViT: a Vision Transformer that was never trained, the floor for all others."""

from typing import Annotated, Literal

import torch
from timm.models import VisionTransformer

from lumen.core.random import stable_seed
from lumen.core.ranges import LayerRange, Seed
from lumen.core.registry import backbones
from lumen.features.pretrained import SCENES_WEIGHTS, loading_errors
from lumen.features.timm_loading import TINY_CONFIG, create_network
from lumen.features.timm_network import TimmNetwork


@backbones.register
def untrained(
    size: Literal["tiny", "small", "base"] = "base",
    patch: Literal[8, 16] = 16,
    layer: Annotated[int | list[int], LayerRange(tiny=4, small=12, base=12, scenes=6)] = -1,
    facet: Literal["token", "key", "value"] = "token",
    seed: Seed = 0,
    fit: bool = True,
    weights: Literal["none", "scenes"] = "none",
) -> TimmNetwork:
    """Return the patch tokens of DINO's architecture with random weights.

    What a layout holds of an image without any training shows in the results of this backbone.

    Args:
        seed: Seed of the weights.
        weights: "none", or "scenes" for the architecture of the small dino of scenes, whose weights are not read.
    """
    architecture = f"vit_{'small' if size == 'tiny' else size}_patch{patch}_224.dino"
    source = f"local-dir:{SCENES_WEIGHTS / 'dino'}" if weights == "scenes" else architecture
    with loading_errors(None, "untrained", ""):  # keeps the random numbers of the run
        torch.default_generator.manual_seed(stable_seed(seed, "untrained"))
        net, _ = create_network(source, False, VisionTransformer, TINY_CONFIG if size == "tiny" else None)
    return TimmNetwork("untrained", net, layer, facet, fit)
