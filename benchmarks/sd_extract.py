"""Layouts of two images of 128 px (32 x 32 latents) from a U-Net of half of Stable Diffusion's widths."""

from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from backbones.sd import SD
from lumen.core.resize import resize
from lumen.diffusion.loading import load
from lumen.diffusion.stable_diffusion import encode_latents
from lumen.features.pca import project

PEER = "the whole U-Net with hooks; maps resized, concatenated, centred and projected"
LIBRARIES = ("diffusers", "torch")
ROUNDS = 5
TOLERANCE = 1e-5
TARGET_SPEEDUP = 1.5
BOTTLENECK = (
    "everything before the last requested layer must run; that is 1.47 times fewer operations, and these are no faster"
)
MIN_FLOP_RATIO = 1.45


def inputs(small: bool = False) -> tuple:
    """Return untrained networks, images and a PCA basis.

    The text is 768 wide, as SD 1.5's. The autoencoder is so small that its time does not matter.
    """
    torch.manual_seed(0)
    base, width = load("none", "tiny"), 32 if small else 160
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=768,
        num_hidden_layers=1,
        vocab_size=len(base.tokenizer),
        bos_token_id=base.tokenizer.bos_token_id,
        eos_token_id=base.tokenizer.eos_token_id,
    )
    widths = (width, 2 * width, 4 * width, 4 * width)
    unet = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8)
    parts = {"unet": unet, "text_encoder": CLIPTextModel(config)}
    frozen = {name: part.requires_grad_(False).eval() for name, part in parts.items()}
    backbone = SD(replace(base, **frozen), [2, 5, 8], "entering", 100, "", 42, False)
    axes, _ = torch.linalg.qr(torch.randn(backbone.channels, 20))
    return backbone, torch.rand(2, 3, 128, 128) * 2 - 1, torch.randn(backbone.channels), axes, torch.rand(20) + 0.5


@torch.no_grad()
def peer(backbone: SD, image: Tensor, mean: Tensor, axes: Tensor, scale: Tensor) -> Tensor:
    """Return the layout by hooks on the whole U-Net."""
    z = encode_latents(backbone.vae, image)
    noise = torch.randn((1, *z.shape[1:]), generator=torch.Generator().manual_seed(backbone.seed)).expand_as(z)
    t = torch.full((len(z),), backbone.timestep)
    maps: list[Tensor] = []
    hooks = [
        backbone.unet.get_submodule(tap).register_forward_hook(
            lambda _, __, output: maps.append(output[0] if isinstance(output, tuple) else output)
        )
        for tap in backbone.tap_names
    ]
    text = backbone.text.expand(len(z), -1, -1)
    backbone.unet(backbone.scheduler.add_noise(z, noise, t), t, encoder_hidden_states=text)
    for hook in hooks:
        hook.remove()
    joint = torch.cat([resize(part, maps[-1].shape[-2:]) for part in maps], dim=1)
    return torch.einsum("bchw,ck->bkhw", joint - mean[:, None, None], axes / scale)


def ours(backbone: SD, image: Tensor, mean: Tensor, axes: Tensor, scale: Tensor) -> Tensor:
    """Return the layout by our extraction and projection."""
    return project(backbone.feature_maps(image), mean, axes, scale)
