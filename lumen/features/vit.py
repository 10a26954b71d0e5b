"""One adapter for every Vision Transformer of timm: DINO, DINOv2."""

from collections.abc import Iterable
from functools import cached_property

import timm
import torch
from jaxtyping import Float
from timm.data import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor

from lumen.core.hashing import fingerprint
from lumen.core.interfaces import Backbone
from lumen.features.extraction import Normalise, chosen, fitted, grid, outputs
from lumen.features.pretrained import folder, outlined, reading

FILES = ["config.json", "model.safetensors"]
HOLDS = "config.json and model.safetensors, as timm.models.save_for_hf(..., safe_serialization=True) writes them"
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}  # what makes a small architecture a tiny one
PARTS = {"key": 1, "value": 2}  # where each lies in the output of a block's qkv


class ViT(Backbone):
    """Dense features of a timm Vision Transformer, one map per layer, all on the grid of patches.

    Args:
        layer: a block or several, from 0; -1 is the last.
        facet: "token" is a block's output under the network's final norm (DINOv2's
            x_norm_patchtokens, for earlier blocks too, as its get_intermediate_layers(norm=True));
            "key" and "value" are what its attention compares and passes on, heads side by side
            (Amir et al. 2021).
        fit: resize images to the nearest multiple of the patch.
    """

    def __init__(self, name: str, net: VisionTransformer, layer: int | Iterable[int], facet: str, fit: bool):
        super().__init__()
        self.name, self.net, self.facet, self.fit = name, net, facet, fit
        self.layers = chosen(layer, len(net.blocks), name)
        self.stride = net.patch_embed.patch_size[0]
        self.map_channels = (net.embed_dim,) * len(self.layers)
        card = resolve_model_data_config(net)
        self.normalise = Normalise(card["mean"], card["std"])
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        image = self.normalise(fitted(image, self.stride, self.fit, self.name))
        if self.facet == "token":
            return self.net.forward_intermediates(
                image, indices=self.layers, norm=True, stop_early=True, intermediates_only=True
            )
        with outputs([self.net.blocks[layer].attn.qkv for layer in self.layers]) as found:
            self.net.forward_features(image)
        shape = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        patches = [qkv[:, self.net.num_prefix_tokens :] for qkv in found]
        return [grid(each.chunk(3, dim=-1)[PARTS[self.facet]], shape) for each in patches]

    @cached_property
    def identity(self) -> dict[str, str]:
        # `fit` is not part of it: where both settings give features, they give the same
        return {
            "name": self.name,
            "architecture": self.net.pretrained_cfg["architecture"],
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }


def vit(
    name: str,
    card: str,
    tiny: bool,
    layer: int | Iterable[int],
    facet: str,
    fit: bool,
    weights: str,
    revision: str | None,
) -> ViT:
    """The backbone `name` with timm's architecture `card`, or the architecture of a folder of weights.

    Raises:
        WeightsMissing: the weights are nowhere, or cannot be read.
    """
    path = folder(weights, name, None if tiny else f"timm/{card}", revision, FILES)
    with reading(path, name, HOLDS):
        if path:
            net = timm.create_model(f"local-dir:{path}", not outlined(), num_classes=0, dynamic_img_size=True)
        else:
            net = timm.create_model(card, num_classes=0, dynamic_img_size=True, **(TINY if tiny else {}))
    return ViT(name, net, layer, facet, fit)
