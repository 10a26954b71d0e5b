"""Stable Diffusion 1.5 and 2.1: features of the U-Net's decoder for a slightly noisy image (layers of sd-dino)."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Backbone
from lumen.core.interfaces.script import FeatureScript, WeightsExpression
from lumen.core.patching import ConstantOutput, replace_submodules
from lumen.core.ranges import LayerRange, Range, Seed
from lumen.core.registry import backbones
from lumen.core.tensor_hashing import fingerprint
from lumen.diffusion.activation_reuse import cached_cross_attention_kv
from lumen.diffusion.loading import load
from lumen.diffusion.single_file import opener
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents
from lumen.features.extraction import capture_outputs, resize_to_multiple, select_layers

# Arguments that are those of the generator, where a config gives them there and none of them here.
SHARED_KEYS = {"weights": "diffusion.weights", "size": "diffusion.size", "revision": "diffusion.revision"}


class SD(Backbone):
    """Features from the decoder of a Stable Diffusion U-Net: one map per layer, coarse to fine.

    The latents of the image are the mean of the posterior. The noise is the same for every image of a size. So the
    features of an image are deterministic and do not depend on its batch.

    Args:
        base: Frozen networks; a generator with the same weights shares them in memory.
        layers: Output blocks of the U-Net in the numbering of the original code, 0 to 11.
        reading: "entering": input of a layer before the skip connection is concatenated, as in sd-dino (Zhang et al.
            2023, arXiv:2305.15347). "block": output of a layer after its upsampling, as in DIFT (Tang et al. 2023,
            arXiv:2306.03881).
        timestep: Diffusion timestep of the noise, 0 (least) to 999.
        prompt: Caption that the U-Net attends to.
        seed: Seed of the noise.
        fit: Resize images to the nearest multiple of the latents' cell.

    Attributes:
        tap_names: Submodules of the U-Net whose outputs are the feature maps.
        downscale: Image pixels per cell of the latents.
    """

    def __init__(
        self,
        base: StableDiffusion,
        layers: list[int],
        reading: str,
        timestep: int,
        prompt: str,
        seed: int,
        fit: bool,
    ):
        super().__init__()
        self.vae, self.unet, self.scheduler = base.vae, base.unet, base.scheduler
        self.downscale, self.reading, self.fit = base.downscale, reading, fit
        self.source = "" if base.source.startswith("untrained") else base.source
        self.timestep, self.prompt, self.seed = timestep, prompt, seed
        self.layers = select_layers(layers, sum(len(block.resnets) for block in self.unet.up_blocks), "sd")
        last = self.scheduler.config.num_train_timesteps - 1
        if not 0 <= timestep <= last:
            raise BadConfig(f"sd has timesteps 0 to {last}, not {timestep}; choose one of those (the default is 100).")
        self.register_buffer("text", base.encode_prompts([prompt]), persistent=False)
        self._prompt_kv: dict[str, ConstantOutput] = {}
        self._prompt_kv_precision: tuple | None = None
        # No longer needed, but part of the identity. The tuple keeps it from being registered as a submodule.
        self._text_encoder = (base.text_encoder,)
        taps = [_locate_output(self.unet, layer - (reading == "entering")) for layer in self.layers]
        self.tap_names, self.map_channels, halvings = zip(*taps, strict=True)
        self.stride = self.downscale * 2 ** halvings[-1]
        self.final_conv = f"unet.{self.tap_names[-1]}.conv" if self.tap_names[-1].endswith("upsamplers.0") else None
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per layer, coarse to fine."""
        # The generator may have cast the networks that it shares to half precision.
        image = resize_to_multiple(image, self.downscale, self.fit, "sd")
        z = encode_latents(self.vae, image.to(self.vae.dtype)).to(self.unet.dtype)
        t = torch.full((len(z),), self.timestep, device=z.device)
        # The memory layout of the latents decides how convolutions round; cached and encoded latents must agree.
        noisy = self.scheduler.add_noise(z, self.fixed_noise(z), t).contiguous(memory_format=torch.channels_last)
        modules = [self.unet.get_submodule(name) for name in self.tap_names]
        with replace_submodules(self.unet, self._cached_prompt_kv(z)), capture_outputs(modules) as outputs:
            self.unet(noisy, t, encoder_hidden_states=self.text.to(z).expand(len(z), -1, -1))
        return [output.to(image.dtype) for output in outputs]

    def fixed_noise(self, z: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 4 h w"]:
        """Return the noise for latents of this size, equal for every image and on every machine.

        sd-dino samples the noise at 64 x 64 and resizes it for other sizes, which makes it smoother than noise. At 512
        pixels the two are equal.
        """
        seeded = torch.Generator().manual_seed(self.seed)
        return torch.randn((1, *z.shape[1:]), generator=seeded, device="cpu").to(z).expand_as(z)

    def _cached_prompt_kv(self, z: Float[Tensor, "b 4 h w"]) -> dict[str, ConstantOutput]:
        """Return the prompt's keys and values of every cross-attention: equal for all images, bit for bit.

        The timestep's share of each block is constant as well. It is not cached, because it costs little and one image
        rounds otherwise than several (by 1.4e-6).
        """
        kind = z.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        precision = (z.device, z.dtype, autocast and torch.get_autocast_dtype(kind))
        if self._prompt_kv_precision != precision:
            self._prompt_kv_precision = precision
            self._prompt_kv = cached_cross_attention_kv(self.unet, self.text.to(z))
        return self._prompt_kv

    def script(self, size: int, locate: WeightsExpression) -> FeatureScript | None:
        """Return code with diffusers alone; None without a folder or a file of weights."""
        if not self.source or not Path(self.source).exists():
            return None
        shape = (1, self.vae.config.latent_channels, size // self.downscale, size // self.downscale)
        setup = [
            f"PIPE = StableDiffusionPipeline.{opener(self.source)}({locate(self.source, 'base')})",
            f"NOISE, T = torch.randn({shape}, generator=torch.Generator().manual_seed({self.seed})), {self.timestep}",
            "OUTPUTS = []",
            f"for name in {list(self.tap_names)}:",
            "    hook = lambda module, x, y: OUTPUTS.append(y[0] if isinstance(y, tuple) else y)",
            "    PIPE.unet.get_submodule(name).register_forward_hook(hook)",
        ]
        body = [
            "OUTPUTS.clear()",
            "z = PIPE.vae.encode(image).latent_dist.mean * PIPE.vae.config.scaling_factor",
            "noisy = DDPMScheduler.from_config(PIPE.scheduler.config).add_noise(z, NOISE, torch.tensor([T]))",
            f'PIPE.unet(noisy, T, encoder_hidden_states=PIPE.encode_prompt({self.prompt!r}, "cpu", 1, False)[0])',
            "return OUTPUTS",
        ]
        imports = "from diffusers import DDPMScheduler, StableDiffusionPipeline"
        return FeatureScript("diffusers", imports, "\n".join(setup), "\n".join(body))

    @cached_property
    def identity(self) -> dict[str, str]:
        """Architecture, arguments and hash of the weights."""
        return {
            "name": "sd",
            "architecture": f"unet {' '.join(map(str, self.unet.config.block_out_channels))} / {self.downscale}",
            "layers": ",".join(map(str, self.layers)),
            "reading": self.reading,
            "timestep": f"{self.timestep} (signal {self.scheduler.alphas_cumprod[self.timestep]:.6f})",
            "prompt": self.prompt,
            "seed": str(self.seed),
            # Parameters alone: the embedded prompt is computed, and its last bit differs between processors.
            "weights": fingerprint(nn.ModuleDict({"vae": self.vae, "unet": self.unet, "text": self._text_encoder[0]})),
        }


def _locate_output(unet: UNet2DConditionModel, layer: int) -> tuple[str, int, int]:
    """Return the submodule of diffusers' U-Net that computes an output block of the original code.

    Args:
        layer: Number of the output block; -1 is the middle block, whose output enters layer 0.

    Returns:
        Name of the submodule, channels of its output, and halvings of its map relative to the latents.
    """
    deepest = len(unet.up_blocks) - 1
    if layer < 0:
        return "mid_block", unet.mid_block.resnets[-1].out_channels, deepest
    number, part = divmod(layer, len(unet.up_blocks[0].resnets))
    block = unet.up_blocks[number]
    channels, halvings = block.resnets[part].out_channels, deepest - number
    if block.upsamplers and part == len(block.resnets) - 1:
        return f"up_blocks.{number}.upsamplers.0", channels, halvings - 1
    kind = "attentions" if hasattr(block, "attentions") else "resnets"
    return f"up_blocks.{number}.{kind}.{part}", channels, halvings


@backbones.register
def sd(
    size: Literal["tiny", "v1", "v2"] = "v1",
    layers: Annotated[list[int] | tuple[int, ...], LayerRange(tiny=12, v1=12, v2=12, scenes=12)] = (2, 5, 8),
    reading: Literal["entering", "block"] = "entering",
    timestep: Annotated[int, Range(0, 999)] = 100,
    prompt: str = "",
    seed: Seed = 42,
    fit: bool = False,
    weights: str = "published",
    revision: str | None = None,
) -> SD:
    """Return the U-Net features of Stable Diffusion 1.5 (v1) or 2.1-base (v2).

    The default layers give 1280 + 1280 + 640 channels, the finest map at 1/16 of the image. A generator of the same
    weights shares the U-Net and the autoencoder.

    Args:
        weights: "published", "none", "scenes", a diffusers folder, a .safetensors file or a hub id. A folder has its
            own size. Unless weights, size or revision is given, all three follow those that `diffusion` is given.
        revision: Commit, tag or branch of a hub id; None is its main branch.
    """
    base = load(weights, size, revision)
    return SD(base, list(layers), reading, timestep, prompt, seed, fit)
