"""A frozen latent diffusion model and the ControlNet that learns to steer it by a layout."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.hashing import fingerprint
from lumen.core.patching import Known, standing
from lumen.core.random import keyed_normal, stable_seed, keyed_uniform
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import attending, shared
from lumen.diffusion.stable_diffusion import Pipeline, moments, sampled, sent

SAMPLERS = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}


class ControlledDiffusion(nn.Module):
    """p(image | caption, layout): only the ControlNet learns, so only the ControlNet is registered.

    Args:
        pipeline: the frozen autoencoder, text encoder, UNet and noise schedule.
        channels: of the layout.
        hint: "latent" brings the layout in at the latents' resolution, "image" at the image's, through
            ControlNet's strided encoder.
        prompt_dropout: share of training captions replaced by the empty one.
        snr_gamma: min-SNR-gamma loss weighting (Hang et al. 2023, arXiv:2303.09556); None is no weighting.
        seed: of the layers that are not copied from the UNet.
        keep_text: whether what the text encoder makes of a training caption stays in memory.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        channels: int,
        hint: str = "latent",
        prompt_dropout: float = 0.0,
        snr_gamma: float | None = None,
        seed: int = 0,
        checkpointing: bool = False,
        keep_text: bool = False,
    ):
        super().__init__()
        self.texts: dict[str, Tensor] | None = {} if keep_text else None
        self.pipeline = pipeline  # a plain dataclass: its networks stay out of state_dict, DDP, EMA and train mode
        self.hint, self.prompt_dropout, self.snr_gamma = hint, prompt_dropout, snr_gamma
        stages = int(math.log2(pipeline.downscale)) + 1 if hint == "image" else 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(seed, "controlnet"))
            self.controlnet = ControlNetModel.from_unet(
                pipeline.unet,
                conditioning_channels=channels,
                conditioning_embedding_out_channels=_embedding(pipeline.unet.config.block_out_channels[0], stages),
            ).float()
            if hint == "image":
                _in_scale(self.controlnet.controlnet_cond_embedding)
        if checkpointing:
            self.controlnet.enable_gradient_checkpointing()
            pipeline.unet.enable_gradient_checkpointing()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The frozen ones."""
        return {"vae": self.pipeline.vae, "text_encoder": self.pipeline.text_encoder, "unet": self.pipeline.unet}

    @cached_property
    def identity(self) -> dict[str, str]:
        """The frozen networks' weights, hashed: a ControlNet steers the ones it has learnt with, and no others."""
        return {name: fingerprint(network) for name, network in self.networks.items()}

    @torch.no_grad()
    def moments(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n h w"]:
        """What the autoencoder makes of an image, with what its sampling leaves open: the same at every step."""
        # In fp32: half precision would round the latents, and with them the noise schedule.
        with torch.autocast(image.device.type, enabled=False):
            return moments(self.pipeline.vae, image).float()

    def loss(
        self,
        moments: Float[Tensor, "b n h w"],
        caption: list[str],
        layout: Float[Tensor, "b k _ _"],
        keys: list[tuple],
        timesteps: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The denoising error of each image, mean squared over its latents.

        Args:
            moments: of the images.
            keys: one per image, such as (seed, id, step); all that is random follows from it alone.
            timesteps: to be used instead of drawn ones; then no caption is dropped and no error weighted.
        """
        scheduler = self.pipeline.scheduler
        shape = (self.pipeline.unet.config.in_channels, *moments.shape[-2:])
        weighted = timesteps is None
        with torch.no_grad():
            draws = (keyed_normal(shape, [(*k, what) for k in keys]) for what in ("posterior", "noise"))
            posterior, noise = (sent(draw, moments.device) for draw in draws)
            z = sampled(self.pipeline.vae, moments, posterior)
            if timesteps is None:
                share = keyed_uniform([(*k, "timestep") for k in keys])
                timesteps = (share * scheduler.config.num_train_timesteps).long()
                drop = keyed_uniform([(*k, "prompt") for k in keys]) < self.prompt_dropout
                caption = ["" if gone else c for c, gone in zip(caption, drop.tolist(), strict=True)]
            timesteps = sent(timesteps, moments.device)
            text = self._text(caption)
            # How latents lie in memory decides how convolutions round: from a cache as from the autoencoder.
            noisy = scheduler.add_noise(z, noise, timesteps).contiguous(memory_format=torch.channels_last)
            target = scheduler.get_velocity(z, noise, timesteps) if self._predicts_velocity else noise
        predicted = self.denoise(noisy, timesteps, text, layout)
        error = F.mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(1)
        return error * self._weight(timesteps) if weighted else error

    def denoise(
        self,
        noisy: Float[Tensor, "b z h w"],
        timesteps: Int[Tensor, "..."],
        text: Float[Tensor, "b l d"],
        layout: Float[Tensor, "b k _ _"] | None,
    ) -> Float[Tensor, "b z h w"]:
        """The UNet's prediction under the ControlNet's residuals; no layout is the UNet alone."""
        residuals = {}
        if layout is not None:
            hint = resize(layout, self._hint_size(noisy))
            down, middle = self.controlnet(noisy, timesteps, text, hint, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.pipeline.unet(noisy, timesteps, text, return_dict=False, **residuals)[0]

    def sample(self, *what: Any, **how: Any) -> Float[Tensor, "b 3 H W"]:
        """Images in [-1, 1]: the `latents` of the same arguments, decoded; an image does not depend on its batch."""
        return self.decoded(self.latents(*what, **how))

    @torch.no_grad()
    def latents(
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
        """Noise made an image of `size` in latents, one per caption, layout and seed.

        Both guided and unguided branches see the layout, as in ControlNet; no layout is the caption alone.

        Args:
            control_end: share of the steps that the layout steers; after them the ControlNet is not run
                (diffusers' `control_guidance_end`, which runs it and multiplies by zero).
        """
        pipeline, device = self.pipeline, self.pipeline.unet.device
        scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
        # They stay on the CPU, where the scheduler looks at them: on a GPU it would wait for each step to end.
        scheduler.set_timesteps(steps)
        shape = (pipeline.unet.config.in_channels, *(s // pipeline.downscale for s in size))
        z = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(device)
        z = z * scheduler.init_noise_sigma
        guided = guidance != 1
        text = pipeline.embed([negative] * len(caption) + caption if guided else caption)
        hint = None if layout is None else resize(torch.cat([layout] * 2) if guided else layout, self._hint_size(z))
        timesteps = scheduler.timesteps
        with self._sparing(hint, text, guided):
            for step, (now, t) in enumerate(zip(timesteps, timesteps.to(device), strict=True), start=1):
                noisy = scheduler.scale_model_input(torch.cat([z] * 2) if guided else z, now)
                predicted = self.denoise(noisy, t, text, hint if step / len(timesteps) <= control_end else None)
                if guided:
                    plain, prompted = predicted.chunk(2)
                    predicted = plain + guidance * (prompted - plain)
                z = scheduler.step(predicted, now, z, return_dict=False)[0]
        return z

    @contextmanager
    def _sparing(
        self, hint: Float[Tensor, "b k _ _"] | None, text: Float[Tensor, "b l d"], guided: bool
    ) -> Iterator[None]:
        """Inside, what is the same at every step, or in both branches, is computed once; no bit of a number changes."""
        unet, controlnet, name = self.pipeline.unet, self.controlnet, "controlnet_cond_embedding"
        parts = attending(unet, text) | (shared(unet) if guided else {})
        steered = {} if hint is None else {name: Known(controlnet.get_submodule(name)(hint))}
        if hint is not None:
            steered |= attending(controlnet, text) | (shared(controlnet) if guided else {})
        with standing(unet, parts), standing(controlnet, steered):
            yield

    @torch.no_grad()
    def decoded(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 H W"]:
        """Latents as images in [-1, 1].

        One by one and in fp32: the decoder is what runs out of memory, and in half precision goes black. Of several
        at once each would differ in its last bits (by 2e-6) from what it is alone.
        """
        vae = self.pipeline.vae
        scaled = z.float() / vae.config.scaling_factor
        with torch.autocast(z.device.type, enabled=False):
            images = [vae.decode(one, return_dict=False)[0] for one in scaled.split(1)]
        return torch.cat(images).clamp(-1, 1)

    def _text(self, captions: list[str]) -> Float[Tensor, "b l d"]:
        """What the U-Net attends to, of captions that come again; where it is kept it was made of each caption alone.

        So it has the same bits whenever a caption is first met, as after a run is continued.
        """
        if self.texts is None:
            return self.pipeline.embed(captions)
        self.texts |= {c: self.pipeline.embed([c])[0] for c in dict.fromkeys(captions) if c not in self.texts}
        return torch.stack([self.texts[c] for c in captions])

    @property
    def _predicts_velocity(self) -> bool:
        return self.pipeline.scheduler.config.prediction_type == "v_prediction"

    def _hint_size(self, noisy: Tensor) -> tuple[int, int]:
        factor = self.pipeline.downscale if self.hint == "image" else 1
        return noisy.shape[-2] * factor, noisy.shape[-1] * factor

    def _weight(self, timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """min(SNR, gamma) in units of the predicted quantity: / SNR for noise, / (SNR + 1) for velocity."""
        if self.snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self.pipeline.scheduler, timesteps)
        return snr.clamp(max=self.snr_gamma) / (snr + 1 if self._predicts_velocity else snr)

    def _apply(self, fn, recurse: bool = True):
        if self.texts:
            self.texts.clear()  # they are of another device or type now
        for network in self.networks.values():
            network._apply(fn)
        return super()._apply(fn, recurse)


def _in_scale(encoder: nn.Module) -> None:
    """He's initialisation of the strided encoder, through which a tenth of a layout's contrast comes.

    Through PyTorch's own, which ControlNet has, less than a hundredth does, and hundreds of steps pass before a layout
    is heeded.
    """
    for conv in (encoder.conv_in, *encoder.blocks):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)


def _embedding(width: int, stages: int) -> tuple[int, ...]:
    """Widths of the hint encoder: one stage keeps the resolution; four are ControlNet's 16, 32, 96, 256.

    In proportion to the UNet's first width, or it would be half of a small model's work.
    """
    if stages == 1:
        return (width,)
    return tuple(max(4, round(width * share)) for share in (0.05, 0.1, 0.3, 0.8)[:stages])
