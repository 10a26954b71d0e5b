"""Stable Diffusion 1.5 and 2.1: what the U-Net knows of an image with a little noise on it (sd-dino's layers)."""

from functools import cached_property
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.hashing import fingerprint
from lumen.core.interfaces import Backbone
from lumen.core.patching import Known, standing
from lumen.core.registry import backbones
from lumen.diffusion.activation_reuse import attending
from lumen.diffusion.stable_diffusion import Pipeline, latent, load
from lumen.features.extraction import chosen, fitted, outputs


class SD(Backbone):
    """Features inside the decoder of a Stable Diffusion's U-Net, one map per layer, coarse to fine.

    The image's latent is the posterior mean, the noise is one fixed draw per latent size and the
    same for every image, so an image has one answer, whatever its batch.

    Args:
        pipeline: the frozen networks; held once in memory if the generator shares them.
        layers: of the U-Net's output blocks in the numbering of the original code, 0 to 11.
        reading: "entering" taps what enters a layer, before the skip connection joins it (sd-dino,
            Zhang et al. 2023); "block" what leaves it, upsampled where it upsamples (as DIFT reads).
        timestep: how much noise: 0 (least) to 999.
        prompt: what the U-Net is told to see.
        seed: of the noise.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        layers: list[int],
        reading: str,
        timestep: int,
        prompt: str,
        seed: int,
        fit: bool,
    ):
        super().__init__()
        self.vae, self.unet, self.scheduler = pipeline.vae, pipeline.unet, pipeline.scheduler
        self.downscale, self.reading, self.fit = pipeline.downscale, reading, fit
        self.timestep, self.prompt, self.seed = timestep, prompt, seed
        self.layers = chosen(layers, sum(len(block.resnets) for block in self.unet.up_blocks), "sd")
        last = self.scheduler.config.num_train_timesteps - 1
        if not 0 <= timestep <= last:
            raise BadConfig(f"sd knows timesteps 0 to {last}, not {timestep}; name one of those (the default is 100).")
        self.register_buffer("text", pipeline.embed([prompt]), persistent=False)
        self._prompt: tuple = (None, {})  # in which precision it was attended to, and the keys and values
        self._text_encoder = (pipeline.text_encoder,)  # done with, but part of what the features depend on
        taps = [_tap(self.unet, layer - (reading == "entering")) for layer in self.layers]
        self.taps, map_channels, halvings = zip(*taps, strict=True)
        self.map_channels, self.stride = map_channels, self.downscale * 2 ** halvings[-1]
        self.final_conv = f"unet.{self.taps[-1]}.conv" if self.taps[-1].endswith("upsamplers.0") else None
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        # the generator may have cast the networks that they share to half precision
        z = latent(self.vae, fitted(image, self.downscale, self.fit, "sd").to(self.vae.dtype)).to(self.unet.dtype)
        t = torch.full((len(z),), self.timestep, device=z.device)
        # How latents lie in memory decides how convolutions round: known beforehand as from the autoencoder.
        noisy = self.scheduler.add_noise(z, self._noise(z), t).contiguous(memory_format=torch.channels_last)
        taps = [self.unet.get_submodule(tap) for tap in self.taps]
        with standing(self.unet, self._attending(z)), outputs(taps) as found:
            self.unet(noisy, t, encoder_hidden_states=self.text.to(z).expand(len(z), -1, -1))
        return [each.to(image.dtype) for each in found]

    def _attending(self, z: Float[Tensor, "b 4 h w"]) -> dict[str, Known]:
        """The prompt's keys and values in each cross-attention: the same for all images, bit for bit.

        What the timestep adds to each block stays as well, but for one image it rounds otherwise than for several
        (by 1.4e-6), and is no work.
        """
        kind = z.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        how = (z.device, z.dtype, cast and torch.get_autocast_dtype(kind))
        if self._prompt[0] != how:
            self._prompt = how, attending(self.unet, self.text.to(z))
        return self._prompt[1]

    def _noise(self, z: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 4 h w"]:
        """Drawn at the latent's own size from the one seed, on the CPU, so every machine draws alike.

        sd-dino draws it at 64 x 64 and resizes that for other images; a resized draw is smoother
        than noise. At 512 pixels the two are the same.
        """
        seeded = torch.Generator().manual_seed(self.seed)
        return torch.randn((1, *z.shape[1:]), generator=seeded, device="cpu").to(z).expand_as(z)

    @cached_property
    def identity(self) -> dict[str, str]:
        map_channels = self.unet.config.block_out_channels
        return {
            "name": "sd",
            "architecture": f"unet {' '.join(map(str, map_channels))} / {self.downscale}",
            "layers": ",".join(map(str, self.layers)),
            "reading": self.reading,
            "timestep": f"{self.timestep} (signal {self.scheduler.alphas_cumprod[self.timestep]:.6f})",
            "prompt": self.prompt,
            "seed": str(self.seed),
            # of what was learnt: the embedded prompt is computed, and differs in its last bit between processors
            "weights": fingerprint(nn.ModuleDict({"vae": self.vae, "unet": self.unet, "text": self._text_encoder[0]})),
        }


def _tap(unet: UNet2DConditionModel, layer: int) -> tuple[str, int, int]:
    """Where the output of an output block of the original code is in diffusers' U-Net.

    Returns:
        the submodule's name, its channels, and how often its map is halved against the latent.
        Layer -1 is the middle block, which enters layer 0.
    """
    deepest = len(unet.up_blocks) - 1
    if layer < 0:
        return "mid_block", unet.mid_block.resnets[-1].out_channels, deepest
    number, part = divmod(layer, len(unet.up_blocks[0].resnets))
    block = unet.up_blocks[number]
    width, halvings = block.resnets[part].out_channels, deepest - number
    if block.upsamplers and part == len(block.resnets) - 1:
        return f"up_blocks.{number}.upsamplers.0", width, halvings - 1
    kind = "attentions" if hasattr(block, "attentions") else "resnets"
    return f"up_blocks.{number}.{kind}.{part}", width, halvings


@backbones.register
def sd(
    size: Literal["tiny", "v1", "v2"] = "v1",
    layers: list[int] | tuple[int, ...] = (2, 5, 8),
    reading: Literal["entering", "block"] = "entering",
    timestep: int = 100,
    prompt: str = "",
    seed: int = 42,
    fit: bool = False,
    weights: str = "published",
    revision: str | None = None,
) -> SD:
    """1280 + 1280 + 640 channels of SD 1.5 (v1) or 2.1-base (v2), the finest map at 1/16 of the image.

    `weights`: published, none, scenes, a diffusers pipeline folder (which has its own size) or a
    hub id. The U-Net and autoencoder are shared with a generator of the same weights.
    """
    pipeline = load(weights, size, revision)
    return SD(pipeline, list(layers), reading, timestep, prompt, seed, fit)
