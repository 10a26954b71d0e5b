"""Unconditional diffusion: the frozen model under the empty prompt, split inside its decoder."""

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.ranges import Range
from lumen.core.registry import generators
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.split_decoder import decode_from_middle, decode_to_middle, verify_decoder
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents
from lumen.features.extraction import capture_outputs

TIMESTEP = 100  # of the noise under which the U-Net reads latents, as the backbone sd has it
NOISE_SEED = 42  # of that noise, which is the same for every image


@generators.register
class Unconditional(LatentDiffusion):
    """Frozen Stable Diffusion as an unconditional generator that is split in two, G2 of G1, and trains nothing.

    G1 leads from a seed to feature maps, and is `features` of `latents`. G2 is `render`, which leads from feature maps
    to the image. The task `rearranger` needs nothing else of a generator but `dense_features`, whose clusters are proxy
    masks, and `invert` for photos; in a GAN the latents are its noise, and the dense features those of G1.

    G1 is the sampler under the empty prompt with the decoder up to its middle block; a photo enters by the encoder.

    Args:
        sampler: Sampler of the latents.
        sampler_steps: Its steps.
        base: Frozen autoencoder, text encoder, U-Net and noise schedule.
    """

    requires = {"conditioning": "blank", "steps": 0}

    def __init__(
        self,
        sampler: Literal["ddim", "dpm"] = "dpm",
        sampler_steps: Annotated[int, Range(1, 1000)] = 15,
        *,
        base: StableDiffusion,
    ):
        verify_decoder(base)
        super().__init__(base)
        base.unet.disable_gradient_checkpointing()  # the U-Net is shared, and another generator may have set it
        self.sampler, self.sampler_steps = sampler, sampler_steps
        self.dense_channels = self._dense_block.resnets[-1].out_channels
        self.feature_channels = base.vae.config.block_out_channels[-1]

    @property
    def _dense_block(self) -> nn.Module:
        """The last block but one of the U-Net's decoder, whose cells are those of the latents."""
        return self.base.unet.up_blocks[max(0, len(self.base.unet.up_blocks) - 2)]

    def prompts(self, caption: list[str], layout: Float[Tensor, "b k _ _"] | None, sampling: bool = False) -> list[str]:
        """Return empty prompts; without a layout, the captions."""
        return caption if layout is None else [""] * len(caption)

    # ---- G1

    @property
    def latents_of_seed(self) -> dict[str, Any]:
        """Everything that `latents` depends on besides seeds and size."""
        return self.protocol() | {"sampler": self.sampler, "steps": self.sampler_steps}

    def latents(self, seeds: list[int], size: tuple[int, int]) -> Float[Tensor, "b z h w"]:
        """Return the latents of seeds; they depend on nothing else."""
        prompts = [""] * len(seeds)
        return self.sample_latents(prompts, None, seeds, size, self.sampler, self.sampler_steps, guidance=1)

    @torch.no_grad()
    def invert(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b z h w"]:
        """Return the latents of photos, by the encoder."""
        with torch.autocast(image.device.type, enabled=False):
            return encode_latents(self.base.vae, image.float())

    def features(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
        """Return the feature maps between G1 and G2."""
        return decode_to_middle(self.base.vae, z)

    # ---- G2

    def render(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return feature maps as images in [-1, 1]."""
        return decode_from_middle(self.base.vae, features)

    # ---- clusters

    @torch.no_grad()
    def dense_features(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
        """Return the output of the U-Net's last block but one for slightly noisy latents, always in fp32.

        The decoder's features separate colours, these separate classes.
        """
        base = self.base
        noise = torch.randn((1, *z.shape[1:]), generator=torch.Generator().manual_seed(NOISE_SEED), device="cpu").to(z)
        timestep = torch.full((len(z),), TIMESTEP, device=z.device)
        with torch.autocast(z.device.type, enabled=False), capture_outputs([self._dense_block]) as outputs:
            noisy = base.scheduler.add_noise(z, noise.expand_as(z), timestep).to(base.unet.dtype)
            text = base.encode_prompts([""]).to(noisy).expand(len(z), -1, -1)
            base.unet(noisy.contiguous(memory_format=torch.channels_last), timestep, encoder_hidden_states=text)
        return outputs[0].float()
