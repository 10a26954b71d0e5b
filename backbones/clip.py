"""CLIP (Radford et al. 2021, arXiv:2103.00020): contrastive ViT/16 and ViT/14, OpenAI's weights in open_clip."""

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from lumen.core.interfaces import Backbone
from lumen.core.interfaces.script import FeatureScript, WeightsExpression
from lumen.core.ranges import LayerRange
from lumen.core.registry import backbones
from lumen.core.tensor_hashing import fingerprint
from lumen.features.extraction import Normalization, capture_outputs, resize_to_multiple, select_layers, tokens_to_map
from lumen.features.layout_script import normalization_code, resize_code
from lumen.features.pretrained import building_on_meta, loading_errors, resolve_weights

# By size: open_clip's name of the architecture, and the hub id of OpenAI's weights. Pin a commit with `revision`.
ARCHITECTURES = {
    "tiny": ("ViT-B-16-quickgelu", None),
    "base": ("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai"),
    "large": ("ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai"),
    "large336": ("ViT-L-14-336-quickgelu", "timm/vit_large_patch14_clip_336.openai"),
}
TINY_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"width": 32, "layers": 3, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {"width": 16, "layers": 1, "heads": 1, "vocab_size": 64, "context_length": 8},
}
FILES = ["open_clip_config.json", "open_clip_model.safetensors"]
# Code of `facet` for a block m, its input x and its output y.
FACETS = {
    "token": "NET.ln_post(y)",
    "key": "F.linear(m.ln_1(x), m.attn.in_proj_weight.chunk(3)[1], m.attn.in_proj_bias.chunk(3)[1])",
    "value": "F.linear(m.ln_1(x), m.attn.in_proj_weight.chunk(3)[2], m.attn.in_proj_bias.chunk(3)[2])",
}
CONTENTS = "open_clip_config.json and open_clip_model.safetensors"


class CLIP(Backbone):
    """Dense features of an open_clip image tower: one map per layer, all on the grid of patches.

    Args:
        net: Image tower of open_clip.
        layer: One block or several, from 0; -1 is the last.
        facet: "token": output of a block under the final norm. "key", "value": keys or values of the block's attention
            with all heads concatenated. "maskclip": output of a block in which every token attends to itself alone,
            projected to the joint space with text (Zhou et al. 2022, arXiv:2112.01071).
        fit: Resize images to the nearest multiple of the patch.
    """

    def __init__(self, net: VisionTransformer, layer: int | Iterable[int], facet: str, fit: bool):
        super().__init__()
        self.net, self.facet, self.fit = net, facet, fit
        self.layers = select_layers(layer, len(net.transformer.resblocks), "clip")
        self.stride = net.patch_size[0]
        channels = net.output_dim if facet == "maskclip" else net.transformer.width
        self.map_channels = (channels,) * len(self.layers)
        # The fingerprint of the weights covers the names of buffers, so this attribute must keep its name.
        self.normalise = Normalization(net.preprocess_cfg["mean"], net.preprocess_cfg["std"])
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per layer, in the order of the blocks."""
        image = self.normalise(resize_to_multiple(image, self.stride, self.fit, "clip"))
        grid = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        blocks = self.net.transformer.resblocks
        # All facets but "token" are computed from the input of a block, which is the output of the module before it.
        offset = 0 if self.facet == "token" else 1
        modules = [blocks[i - offset] if i >= offset else self.net.ln_pre for i in self.layers]
        with capture_outputs(modules) as outputs:
            self.net.transformer(self._embed(image, grid))
        read = {"token": self._token, "key": _key, "value": _value, "maskclip": self._maskclip}[self.facet]
        tokens = [read(blocks[i], x)[:, 1:] for i, x in zip(self.layers, outputs, strict=True)]
        return [tokens_to_map(patches, grid) for patches in tokens]

    def _embed(self, image: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Return the input of the transformer, with position embeddings for any grid.

        open_clip's own `_embeds` supports a single grid.

        Source: Bicubic and antialiased resizing, as open_clip.model.resize_pos_embed does on loading.
        """
        net = self.net
        patches = net.conv1(image).flatten(2).mT
        class_token = net.class_embedding.to(patches.dtype).expand(len(image), 1, -1)
        positions = resample_abs_pos_embed(net.positional_embedding[None], grid, net.grid_size)
        return net.ln_pre(torch.cat([class_token, patches], dim=1) + positions.to(patches.dtype))

    def _token(self, block: ResidualAttentionBlock, output: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.net.ln_post(output)

    def _maskclip(self, block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Return MaskCLIP's features of the input of a block; its residual connections and MLP are kept.

        Source: chongzhou96/MaskCLIP, vit.py and maskclip_head.py.
        """
        x = x + block.ls_1(block.attn.out_proj(_value(block, x)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return self.net.ln_post(x) @ self.net.proj

    def script(self, size: int, locate: WeightsExpression) -> FeatureScript | None:
        """Return code with open_clip alone; None without files of weights, and for MaskCLIP's features."""
        if not self.source or self.facet not in FACETS:
            return None
        image = resize_to_multiple(torch.zeros(1, 3, size, size), self.stride, self.fit, "clip")
        grid = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        quick = ", force_quick_gelu=True" if any(isinstance(m, QuickGELU) for m in self.net.modules()) else ""
        setup = [
            f"WEIGHTS = {locate(self.source, 'backbone')}",
            f'NET = open_clip.create_model(f"local-dir:{{WEIGHTS}}"{quick}).visual.eval()',
            normalization_code(self.normalise),
            "OUTPUTS = []",
            f"for layer in {self.layers}:",
            "    hook = lambda m, x, y: OUTPUTS.append((m, x[0], y))",
            "    NET.transformer.resblocks[layer].register_forward_hook(hook)",
        ]
        body = [
            *([] if image.shape[-1] == size else [resize_code(tuple(image.shape[-2:]))]),
            "OUTPUTS.clear()",
            "tokens = NET.conv1(((image + 1) / 2 - MEAN) / STD).flatten(2).mT",
            "tokens = torch.cat([NET.class_embedding.expand(1, 1, -1), tokens], dim=1)",
            f"positions = resample_abs_pos_embed(NET.positional_embedding[None], {grid}, NET.grid_size)",
            "NET.transformer(NET.ln_pre(tokens + positions))",
            f"tokens = [{FACETS[self.facet]} for m, x, y in OUTPUTS]",
            f"return [x[:, 1:].mT.unflatten(2, {grid}) for x in tokens]",
        ]
        imports = "import open_clip\nfrom timm.layers import resample_abs_pos_embed"
        return FeatureScript("open_clip", imports, "\n".join(setup), "\n".join(body))

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name, architecture, layers, facet and hash of the weights."""
        transformer = self.net.transformer
        return {
            "name": "clip",
            "architecture": f"vit {transformer.width} x {len(transformer.resblocks)} / {self.stride}",
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }


def _key(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    return _project_qkv(block, x, 1)


def _value(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    return _project_qkv(block, x, 2)


def _project_qkv(block: ResidualAttentionBlock, x: Float[Tensor, "b n c"], index: int) -> Float[Tensor, "b n c"]:
    """Return queries (index 0), keys (1) or values (2) of a block's attention for the input of the block."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[index], attention.in_proj_bias.chunk(3)[index]
    return F.linear(block.ln_1(x), weight, bias)


@backbones.register
def clip(
    size: Literal["tiny", "base", "large", "large336"] = "base",
    layer: Annotated[int | list[int], LayerRange(tiny=3, base=12, large=24, large336=24, scenes=6)] = -1,
    facet: Literal["token", "key", "value", "maskclip"] = "token",
    fit: bool = True,
    weights: str = "published",
    revision: str | None = None,
) -> CLIP:
    """Return the patch tokens of CLIP's image tower.

    Images keep their size, except that each side is resized to the nearest multiple of the patch (512 to 518 for
    L/14).

    Args:
        size: B/16 (base), L/14 (large), or L/14 fine-tuned at 336 pixels (large336).
        weights: "published", "none", "scenes", an open_clip folder, or a hub id such as
            laion/CLIP-ViT-B-16-laion2B-s34B-b88K. A folder has its own size.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    architecture, hub_id = ARCHITECTURES[size]
    path = resolve_weights(weights, "clip", hub_id, revision, FILES)
    with loading_errors(path, "clip", CONTENTS):
        if path:
            tower = _load_tower(path, weights == "published")
        else:
            tower = _untrained_tower(architecture, TINY_CONFIG if size == "tiny" else {})
    backbone = CLIP(tower, layer, facet, fit)
    backbone.source = str(path or "")
    return backbone


def _load_tower(path: Path, published: bool) -> VisionTransformer:
    """Return the image tower of an open_clip folder."""
    model = open_clip.create_model(
        f"local-dir:{path}",
        load_weights=not building_on_meta(),
        require_pretrained=not building_on_meta(),
        device=torch.get_default_device(),
        # OpenAI's networks were trained with QuickGELU, whether or not the config of their repository says so.
        force_quick_gelu=published,
    )
    if not isinstance(model.visual, VisionTransformer):
        raise TypeError(f"its image tower is a {type(model.visual).__name__}, not open_clip's VisionTransformer")
    return model.visual


def _untrained_tower(architecture: str, changes: dict) -> VisionTransformer:
    model = open_clip.CLIP(**{**open_clip.get_model_config(architecture), **changes})
    open_clip.model.set_model_preprocess_cfg(model, asdict(PreprocessCfg()))
    return model.visual
