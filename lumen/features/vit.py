"""Vision Transformers of timm as backbones: DINO, DINOv2."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import timm
import torch
from jaxtyping import Float
from timm.data import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor

from lumen.core.interfaces import Backbone
from lumen.core.tensor_hashing import fingerprint
from lumen.features.extraction import (
    Normalization,
    capture_outputs,
    resize_to_multiple,
    select_layers,
    tokens_to_map,
)
from lumen.features.pretrained import building_on_meta, loading_errors, resolve_weights

FILES = ["config.json", "model.safetensors"]
CONTENTS = "config.json and model.safetensors, as timm.models.save_for_hf(..., safe_serialization=True) writes them"
TINY_CONFIG = {"embed_dim": 32, "depth": 4, "num_heads": 2}  # replaces the sizes of a small architecture
QKV_INDEX = {"key": 1, "value": 2}  # position in the output of a block's qkv


class ViT(Backbone):
    """Dense features of a timm Vision Transformer: one map per layer, all on the grid of patches.

    Args:
        name: Name of the backbone.
        net: Network of timm.
        layer: One block or several, from 0; -1 is the last.
        facet: "token": output of a block under the network's final norm. These are DINOv2's x_norm_patchtokens; for
            earlier blocks they equal its get_intermediate_layers(norm=True). "key", "value": keys or values of the
            block's attention with all heads concatenated (Amir et al. 2021, arXiv:2112.05814).
        fit: Resize images to the nearest multiple of the patch.
    """

    def __init__(self, name: str, net: VisionTransformer, layer: int | Iterable[int], facet: str, fit: bool):
        super().__init__()
        self.name, self.net, self.facet, self.fit = name, net, facet, fit
        self.layers = select_layers(layer, len(net.blocks), name)
        self.stride = net.patch_embed.patch_size[0]
        self.map_channels = (net.embed_dim,) * len(self.layers)
        card = resolve_model_data_config(net)
        # The fingerprint of the weights covers the names of buffers, so this attribute must keep its name.
        self.normalise = Normalization(card["mean"], card["std"])
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per layer, in the order of the blocks."""
        image = self.normalise(resize_to_multiple(image, self.stride, self.fit, self.name))
        if self.facet == "token":
            return self.net.forward_intermediates(
                image, indices=self.layers, norm=True, stop_early=True, intermediates_only=True
            )
        with capture_outputs([self.net.blocks[layer].attn.qkv for layer in self.layers]) as outputs:
            self.net.forward_features(image)
        grid = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        patches = [qkv[:, self.net.num_prefix_tokens :] for qkv in outputs]
        return [tokens_to_map(qkv.chunk(3, dim=-1)[QKV_INDEX[self.facet]], grid) for qkv in patches]

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name, architecture, layers, facet and hash of the weights.

        `fit` is left out: where both of its values give features, the features are equal.
        """
        return {
            "name": self.name,
            "architecture": self.net.pretrained_cfg["architecture"],
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }


def timm_vit(
    name: str,
    architecture: str,
    tiny: bool,
    layer: int | Iterable[int],
    facet: str,
    fit: bool,
    weights: str,
    revision: str | None,
) -> ViT:
    """Return a backbone with a network of timm.

    Args:
        name: Name of the backbone.
        architecture: timm's name of the model, which is also that of its published weights.
        tiny: Build the architecture in the sizes of `TINY_CONFIG`, for tests; it has no published weights.
        weights: "published", "none", "scenes", a timm folder or a hub id. A folder has its own architecture.
        revision: Commit, tag or branch of a hub id.

    Raises:
        WeightsMissing: The weights do not exist, cannot be read, or belong to another kind of network.
    """
    path = resolve_weights(weights, name, None if tiny else f"timm/{architecture}", revision, FILES)
    with loading_errors(path, name, CONTENTS):
        if path:
            net = _load_vit(path)
        else:
            options = TINY_CONFIG if tiny else {}
            net = timm.create_model(architecture, num_classes=0, dynamic_img_size=True, **options)
    return ViT(name, net, layer, facet, fit)


def _load_vit(path: Path) -> VisionTransformer:
    """Return the network of a timm folder."""
    with torch.device("meta"):  # of the architecture alone, because only some take `dynamic_img_size`
        architecture = timm.create_model(f"local-dir:{path}", num_classes=0)
    if not isinstance(architecture, VisionTransformer):
        kind = architecture.pretrained_cfg["architecture"]
        raise TypeError(f"its architecture {kind} is timm's {type(architecture).__name__}, not its VisionTransformer")
    return timm.create_model(f"local-dir:{path}", not building_on_meta(), num_classes=0, dynamic_img_size=True)
