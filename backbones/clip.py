"""CLIP (Radford et al. 2021, arXiv:2103.00020): contrastive ViT/16 and ViT/14 by open_clip, OpenAI's weights."""

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Literal

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transform import PreprocessCfg
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from lumen.core.hashing import fingerprint
from lumen.core.interfaces import Backbone
from lumen.core.registry import backbones
from lumen.features.extraction import Normalise, chosen, fitted, grid, outputs
from lumen.features.pretrained import folder, outlined, reading

# open_clip's name of each architecture and the hub id of OpenAI's weights in its format; their
# commits could not be looked up where this was written: pin one with `revision`.
CARDS = {
    "tiny": ("ViT-B-16-quickgelu", None),
    "base": ("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai"),
    "large": ("ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai"),
    "large336": ("ViT-L-14-336-quickgelu", "timm/vit_large_patch14_clip_336.openai"),
}
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"width": 32, "layers": 3, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {"width": 16, "layers": 1, "heads": 1, "vocab_size": 64, "context_length": 8},
}
FILES = ["open_clip_config.json", "open_clip_model.safetensors"]
HOLDS = "open_clip_config.json and open_clip_model.safetensors"


class CLIP(Backbone):
    """Dense features of an open_clip image tower, one map per layer, all on the grid of patches.

    Args:
        layer: a block or several, from 0; -1 is the last.
        facet: "token" is a block's output under the final norm; "key" and "value" are its
            attention's, heads side by side; "maskclip" is what a block would put out if every
            token attended to itself alone, projected to the space of the text (`value`s through
            the rest of the block, Zhou et al. 2022).
        fit: resize images to the nearest multiple of the patch.
    """

    def __init__(self, net: VisionTransformer, layer: int | Iterable[int], facet: str, fit: bool):
        super().__init__()
        self.net, self.facet, self.fit = net, facet, fit
        self.layers = chosen(layer, len(net.transformer.resblocks), "clip")
        self.stride = net.patch_size[0]
        width = net.output_dim if facet == "maskclip" else net.transformer.width
        self.map_channels = (width,) * len(self.layers)
        self.normalise = Normalise(net.preprocess_cfg["mean"], net.preprocess_cfg["std"])
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        image = self.normalise(fitted(image, self.stride, self.fit, "clip"))
        shape = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        blocks = self.net.transformer.resblocks
        # all but a token is read from what enters a block: the output of the module before it
        before = 0 if self.facet == "token" else 1
        taps = [blocks[i - before] if i >= before else self.net.ln_pre for i in self.layers]
        with outputs(taps) as found:
            self.net.transformer(self._embedded(image, shape))
        read = {"token": self._token, "key": _key, "value": _value, "maskclip": self._maskclip}[self.facet]
        return [grid(read(blocks[i], x)[:, 1:], shape) for i, x in zip(self.layers, found, strict=True)]

    def _embedded(self, image: Float[Tensor, "b 3 h w"], shape: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """open_clip's `_embeds`, which knows one grid, with the positions resized to this one.

        Source: bicubic and antialiased, as open_clip.model.resize_pos_embed does once on loading.
        """
        net = self.net
        patches = net.conv1(image).flatten(2).mT
        first = net.class_embedding.to(patches.dtype).expand(len(image), 1, -1)
        place = resample_abs_pos_embed(net.positional_embedding[None], shape, net.grid_size)
        return net.ln_pre(torch.cat([first, patches], dim=1) + place.to(patches.dtype))

    def _token(self, block: ResidualAttentionBlock, out: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.net.ln_post(out)

    def _maskclip(self, block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Source: chongzhou96/MaskCLIP, vit.py and maskclip_head.py: residual and MLP are kept."""
        x = x + block.ls_1(block.attn.out_proj(_value(block, x)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return self.net.ln_post(x) @ self.net.proj

    @cached_property
    def identity(self) -> dict[str, str]:
        transformer = self.net.transformer
        return {
            "name": "clip",
            "architecture": f"vit {transformer.width} x {len(transformer.resblocks)} / {self.stride}",
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }


def _key(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    return _projected(block, x, 1)


def _value(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    return _projected(block, x, 2)


def _projected(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"], part: int) -> Float[Tensor, "b n c"]:
    """Query (0), key (1) or value (2) of a block's attention, of what enters the block."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[part], attention.in_proj_bias.chunk(3)[part]
    return F.linear(block.ln_1(x), weight, bias)


@backbones.register
def clip(
    size: Literal["tiny", "base", "large", "large336"] = "base",
    layer: int | list[int] = -1,
    facet: Literal["token", "key", "value", "maskclip"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> CLIP:
    """Plain patch tokens of B/16 (base), L/14 (large) or L/14 trained on to 336 pixels (large336).

    Images are used at their own size, resized to the nearest multiple of the patch where they are
    none (512 to 518 for L/14). `weights`: published, none, scenes, an open_clip folder (which has
    its own size) or the hub id of one, such as laion/CLIP-ViT-B-16-laion2B-s34B-b88K.
    """
    name, card = CARDS[size]
    path = folder(weights, "clip", card, revision, FILES)
    with reading(path, "clip", HOLDS):
        tower = _read(path, weights == "published") if path else _untrained(name, TINY if size == "tiny" else {})
    return CLIP(tower, layer, facet, fit)


def _read(path: Path, published: bool) -> VisionTransformer:
    """The image tower of an open_clip folder; the text tower is let go."""
    # OpenAI's networks are of the quick activation, whether or not their card's config says so
    whole = open_clip.create_model(
        f"local-dir:{path}",
        load_weights=not outlined(),
        require_pretrained=not outlined(),
        device=torch.get_default_device(),
        force_quick_gelu=published,
    )
    if not isinstance(whole.visual, VisionTransformer):
        raise TypeError(f"its image tower is a {type(whole.visual).__name__}, not open_clip's VisionTransformer")
    return whole.visual


def _untrained(name: str, changes: dict) -> VisionTransformer:
    whole = open_clip.CLIP(**{**open_clip.get_model_config(name), **changes})
    open_clip.model.set_model_preprocess_cfg(whole, asdict(PreprocessCfg()))
    return whole.visual
