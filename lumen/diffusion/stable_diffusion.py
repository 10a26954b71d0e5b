"""Frozen Stable Diffusion: autoencoder, text encoder, U-Net and noise schedule, and what each computes."""

from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

TOKEN_CACHE_PROMPTS = 2**16  # prompts whose token ids stay in memory, at 1 kB each


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """Components of one Stable Diffusion in evaluation mode, without trainable parameters.

    Attributes:
        source: Folder of the weights, or "untrained tiny".
        token_cache: Token ids by prompt.
    """

    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    source: str
    token_cache: dict[str, Tensor] = field(default_factory=dict)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The three networks by name."""
        return {"vae": self.vae, "text_encoder": self.text_encoder, "unet": self.unet}

    @property
    def downscale(self) -> int:
        """Image pixels per latent cell."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Float[Tensor, "b n d"]:
        """Return the text embedding: one row per token, padded or cut to the tokenizer's length."""
        return self.text_encoder(to_device_async(self.token_ids(prompts), self.text_encoder.device))[0]

    def token_ids(self, prompts: list[str]) -> Int[Tensor, "b n"]:
        """Return token ids. They are cached, because a caption returns in every epoch."""
        if len(self.token_cache) > TOKEN_CACHE_PROMPTS:
            self.token_cache.clear()
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.token_cache]:
            # The tokenizer may belong to a longer text encoder than the one beside it.
            length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
            tokens = self.tokenizer(new, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            self.token_cache.update(zip(new, tokens.input_ids, strict=True))
        return torch.stack([self.token_cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return latents as images in [-1, 1].

        Each image is decoded alone and in fp32. The decoder is the first to run out of memory, yields black images in
        half precision, and rounds several images otherwise than one (by 2e-6).
        """
        scaled = z.float() / self.vae.config.scaling_factor
        with torch.autocast(z.device.type, enabled=False):
            images = [self.vae.decode(latent, return_dict=False)[0] for latent in scaled.split(1)]
        return torch.cat(images).clamp(-1, 1)


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor on a device, without waiting for a GPU to be ready."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def encode_moments(vae: AutoencoderKL | AutoencoderTiny, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n h w"]:
    """Return mean and, below it, log-variance of an image's latents, unscaled; of an AutoencoderTiny the mean."""
    encoded = vae.encode(image)
    if isinstance(vae, AutoencoderTiny):
        return encoded.latents
    return torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1)


def sample_posterior(
    vae: AutoencoderKL | AutoencoderTiny,
    moments: Float[Tensor, "b n h w"],
    noise: Float[Tensor, "b 4 h w"] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    """Return scaled latents: the posterior mean, or with standard normal noise a sample of the posterior."""
    mean, *logvar = moments.split(vae.config.latent_channels, dim=1)
    if noise is not None and logvar:
        mean = mean + noise * torch.exp(0.5 * logvar[0])
    return mean * vae.config.scaling_factor


def encode_latents(
    vae: AutoencoderKL | AutoencoderTiny,
    image: Float[Tensor, "b 3 H W"],
    noise: Float[Tensor, "b 4 h w"] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    """Return the scaled latents of an image."""
    return sample_posterior(vae, encode_moments(vae, image), noise)
