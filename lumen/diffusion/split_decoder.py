"""Decoder of an autoencoder in two parts, from latents to feature maps and from these to an image."""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.diffusion.stable_diffusion import StableDiffusion


def verify_decoder(base: StableDiffusion) -> None:
    """Check that the decoder has a middle block to be split at.

    Raises:
        BadConfig: It has none.
    """
    if not isinstance(base.vae, AutoencoderKL):
        raise BadConfig(
            f"the decoder of {type(base.vae).__name__} has no middle block to be split at; leave diffusion.vae out, or "
            "name an AutoencoderKL."
        )


@torch.no_grad()
def decode_to_middle(vae: AutoencoderKL, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
    """Return the feature maps of the decoder's middle block for scaled latents, always in fp32."""
    with torch.autocast(z.device.type, enabled=False):
        scaled = z.float() / vae.config.scaling_factor
        entry = scaled if vae.post_quant_conv is None else vae.post_quant_conv(scaled)
        return vae.decoder.mid_block(vae.decoder.conv_in(entry))


@torch.no_grad()
def decode_from_middle(vae: AutoencoderKL, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1]; each is decoded alone and in fp32, as `StableDiffusion.decode` does."""
    with torch.autocast(features.device.type, enabled=False):
        images = [_finish(vae, feature) for feature in features.float().split(1)]
    return torch.cat(images).clamp(-1, 1)


def _finish(vae: AutoencoderKL, x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 3 H W"]:
    decoder = vae.decoder
    for block in decoder.up_blocks:
        x = block(x)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
