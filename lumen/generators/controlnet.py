"""ControlNet (Zhang et al. 2023, arXiv:2302.05543) on a frozen Stable Diffusion: loss and sampler."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.hashing import hash_json
from lumen.core.interfaces import Generator, Stage
from lumen.core.patching import ConstantOutput, replace_submodules
from lumen.core.random import keyed_normal, keyed_uniform, stable_seed
from lumen.core.registry import generators
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import cached_cross_attention_kv, known_latents, shared_self_attention
from lumen.diffusion.hint_encoder import hint_channels, init_hint_encoder
from lumen.diffusion.sampling import run_sampler
from lumen.diffusion.snr import min_snr_weight, predicts_velocity
from lumen.diffusion.stable_diffusion import (
    StableDiffusion,
    encode_latents,
    encode_moments,
    sample_posterior,
    to_device_async,
)


@generators.register
class ControlNet(Generator):
    """ControlNet that steers a frozen Stable Diffusion by a layout.

    Args:
        base: Frozen autoencoder, text encoder, U-Net and noise schedule.
        channels: Channels of the layout.
        hint: "latent" adds the layout at the resolution of the latents, "image" at the resolution of the image,
            through ControlNet's strided encoder.
        prompt_dropout: Share of training captions that are replaced by the empty prompt.
        snr_gamma: min-SNR-gamma loss weighting (Hang et al. 2023, arXiv:2303.09556); None means no weighting.
        seed: Seed of the layers that are not copied from the U-Net.
        checkpointing: Whether the backward pass recomputes activations.
        cache_text: Whether the embeddings of training captions stay in memory.
    """

    display_names = {
        "vae": "autoencoder",
        "text_encoder": "text encoder",
        "unet": "U-Net",
        "unet, backward": "U-Net, backward",
        "controlnet": "ControlNet",
        "controlnet, backward": "ControlNet, backward",
    }

    def __init__(
        self,
        *,
        base: StableDiffusion,
        channels: int,
        hint: str = "latent",
        prompt_dropout: float = 0.0,
        snr_gamma: float | None = None,
        seed: int = 0,
        checkpointing: bool = False,
        cache_text: bool = False,
    ):
        super().__init__()
        self.base = base  # a plain dataclass: its networks stay out of state_dict, DDP, EMA and train mode
        self.hint, self.prompt_dropout, self.snr_gamma = hint, prompt_dropout, snr_gamma
        self.prompt_cache: dict[str, Tensor] | None = {} if cache_text else None
        stages = int(math.log2(base.downscale)) + 1 if hint == "image" else 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(seed, "controlnet"))
            self.controlnet = ControlNetModel.from_unet(
                base.unet,
                conditioning_channels=channels,
                conditioning_embedding_out_channels=hint_channels(base.unet.config.block_out_channels[0], stages),
            ).float()
            if hint == "image":
                init_hint_encoder(self.controlnet.controlnet_cond_embedding)
        for network in (self.controlnet, base.unet):  # the U-Net is shared, and another generator may have set it
            network.enable_gradient_checkpointing() if checkpointing else network.disable_gradient_checkpointing()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Frozen networks by name."""
        return self.base.networks

    @property
    def source(self) -> str:
        """Folder of the frozen weights, or "untrained tiny"."""
        return self.base.source

    @property
    def downscale(self) -> int:
        """Image pixels per latent cell."""
        return self.base.downscale

    @property
    def num_train_timesteps(self) -> int:
        """Length of the noise schedule."""
        return self.base.scheduler.config.num_train_timesteps

    def protocol(self) -> dict[str, Any]:
        """Return hashes of the frozen weights and of the noise schedule, and the scale of the latents."""
        schedule = {key: value for key, value in self.base.scheduler.config.items() if not key.startswith("_")}
        return self.identity | {"schedule": hash_json(schedule), "scaling": self.base.vae.config.scaling_factor}

    @property
    def latents_key(self) -> dict[str, str]:
        """Hash of the autoencoder."""
        return {"vae": self.identity["vae"]}

    def known_latents(self, latent_moments: Float[Tensor, "b n h w"]) -> AbstractContextManager[None]:
        """Return a context in which the shared autoencoder yields these moments without encoding."""
        return known_latents(self.base.vae, latent_moments)

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n h w"]:
        """Return mean and log-variance of an image's latents."""
        # In fp32: half precision would round the latents, and with them the noise schedule.
        with torch.autocast(image.device.type, enabled=False):
            return encode_moments(self.base.vae, image).float()

    def loss(
        self,
        latent_moments: Float[Tensor, "b n h w"],
        caption: list[str],
        layout: Float[Tensor, "b k _ _"],
        keys: list[tuple],
        timesteps: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the denoising error of each image: mean square over its latents."""
        scheduler, device = self.base.scheduler, latent_moments.device
        shape = (self.base.unet.config.in_channels, *latent_moments.shape[-2:])
        weighted = timesteps is None
        with torch.no_grad():
            normals = (keyed_normal(shape, [(*k, kind) for k in keys]) for kind in ("posterior", "noise"))
            posterior, noise = (to_device_async(normal, device) for normal in normals)
            z = sample_posterior(self.base.vae, latent_moments, posterior)
            if timesteps is None:
                share = keyed_uniform([(*k, "timestep") for k in keys])
                timesteps = (share * self.num_train_timesteps).long()
                dropped = keyed_uniform([(*k, "prompt") for k in keys]) < self.prompt_dropout
                caption = ["" if drop else c for c, drop in zip(caption, dropped.tolist(), strict=True)]
            timesteps = to_device_async(timesteps, device)
            text = self._encode_captions(caption)
            # The memory layout of latents decides how convolutions round; cached and fresh latents must be alike.
            noisy = scheduler.add_noise(z, noise, timesteps).contiguous(memory_format=torch.channels_last)
            target = scheduler.get_velocity(z, noise, timesteps) if predicts_velocity(scheduler) else noise
        predicted = self.denoise(noisy, timesteps, text, layout)
        error = F.mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(1)
        return error * min_snr_weight(scheduler, timesteps, self.snr_gamma) if weighted else error

    def denoise(
        self,
        noisy: Float[Tensor, "b z h w"],
        timesteps: Int[Tensor, "..."],
        text: Float[Tensor, "b l d"],
        layout: Float[Tensor, "b k _ _"] | None,
    ) -> Float[Tensor, "b z h w"]:
        """Return the U-Net's prediction with the ControlNet's residuals, or without them if there is no layout."""
        residuals = {}
        if layout is not None:
            hint = resize(layout, self._hint_size(noisy.shape))
            down, middle = self.controlnet(noisy, timesteps, text, hint, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.base.unet(noisy, timesteps, text, return_dict=False, **residuals)[0]

    @torch.no_grad()
    def sample_latents(
        self,
        caption: list[str],
        layout: Float[Tensor, "b k _ _"] | None,
        seeds: list[int],
        size: tuple[int, int],
        sampler: str = "ddim",
        steps: int = 25,
        guidance: float = 7.5,
        negative: str = "",
        control_end: float = 1.0,
    ) -> Float[Tensor, "b z h w"]:
        """Return one sample per caption, layout and seed as latents; both guidance branches see the layout.

        Args:
            control_end: Share of the steps that the layout steers. After them the ControlNet is not run; diffusers'
                `control_guidance_end` runs it and multiplies by zero.
        """
        base, guided = self.base, guidance != 1
        text = base.encode_prompts([negative] * len(caption) + caption if guided else caption)
        shape = (base.unet.config.in_channels, *(side // base.downscale for side in size))
        hint = None
        if layout is not None:
            hint = resize(torch.cat([layout] * 2) if guided else layout, self._hint_size(shape))

        def denoise(noisy: Tensor, t: Tensor, progress: float) -> Tensor:
            return self.denoise(noisy, t, text, hint if progress <= control_end else None)

        with self._reuse_constant_activations(hint, text, guided):
            schedule, device = base.scheduler.config, base.unet.device
            return run_sampler(denoise, schedule, shape, seeds, device, sampler, steps, guidance)

    def decode(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return latents as images in [-1, 1]."""
        return self.base.decode(z)

    @torch.no_grad()
    def reconstruct(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the image after a round trip through the autoencoder."""
        with torch.autocast(image.device.type, enabled=False):
            return self.decode(encode_latents(self.base.vae, image.float()))

    def compile_networks(self) -> None:
        """Compile `denoise`, not the networks: a backbone's hooks do not fire in a compiled U-Net."""
        self.denoise = torch.compile(self.denoise, dynamic=False)

    def loss_stages(
        self, latent_moments: Float[Tensor, "b n h w"], layout: Float[Tensor, "b k _ _"]
    ) -> Iterator[Stage]:
        """Yield the text encoder, and then U-Net and ControlNet with the loss."""
        b = len(latent_moments)
        with torch.no_grad():
            z, text = sample_posterior(self.base.vae, latent_moments), self.base.encode_prompts([""] * b)
        yield Stage("text encoder")
        predicted = self.denoise(z, torch.zeros(b, dtype=torch.long), text, layout)
        loss = F.mse_loss(predicted.float(), z)
        yield Stage("unet", "forward", loss=loss, trained=self.controlnet)

    def sample_stages(self, layout: Float[Tensor, "b k _ _"], size: tuple[int, int]) -> Iterator[Stage]:
        """Yield one step of the sampler with the decoder, which decodes images one by one."""
        b, in_channels = len(layout), self.base.unet.config.in_channels
        text = self.base.encode_prompts([""] * b)
        z = torch.empty(1, in_channels, *(side // self.downscale for side in size))
        self.denoise(z.expand(b, -1, -1, -1), torch.zeros(b, dtype=torch.long), text, layout)
        self.decode(z)
        yield Stage("sampler", "picture")

    @contextmanager
    def _reuse_constant_activations(
        self, hint: Float[Tensor, "b k _ _"] | None, text: Float[Tensor, "b l d"], guided: bool
    ) -> Iterator[None]:
        """Compute once what is equal at every step or in both branches; the result is bit-identical."""
        unet, controlnet, encoder = self.base.unet, self.controlnet, "controlnet_cond_embedding"
        in_unet = cached_cross_attention_kv(unet, text) | (shared_self_attention(unet) if guided else {})
        in_controlnet = {}
        if hint is not None:
            in_controlnet = {encoder: ConstantOutput(controlnet.get_submodule(encoder)(hint))}
            in_controlnet |= cached_cross_attention_kv(controlnet, text)
            in_controlnet |= shared_self_attention(controlnet) if guided else {}
        with replace_submodules(unet, in_unet), replace_submodules(controlnet, in_controlnet):
            yield

    def _encode_captions(self, captions: list[str]) -> Float[Tensor, "b l d"]:
        """Return text embeddings.

        A cached embedding was computed from its caption alone, so it has the same bits whenever the caption first
        occurs, also in a resumed run.
        """
        if self.prompt_cache is None:
            return self.base.encode_prompts(captions)
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.prompt_cache]
        self.prompt_cache |= {caption: self.base.encode_prompts([caption])[0] for caption in new}
        return torch.stack([self.prompt_cache[caption] for caption in captions])

    def _hint_size(self, latents: tuple[int, ...]) -> tuple[int, int]:
        factor = self.downscale if self.hint == "image" else 1
        return latents[-2] * factor, latents[-1] * factor

    def _apply(self, fn, recurse: bool = True):
        if self.prompt_cache:
            self.prompt_cache.clear()  # of another device or dtype from here on
        return super()._apply(fn, recurse)
