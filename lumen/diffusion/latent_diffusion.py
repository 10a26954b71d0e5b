"""Generator in the latents of a frozen Stable Diffusion: encoder, denoising loss, sampler and decoder."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.hashing import hash_json
from lumen.core.interfaces import Generator, Stage
from lumen.core.patching import replace_submodules
from lumen.core.random import keyed_normal, keyed_uniform
from lumen.diffusion.activation_reuse import constant_activations, known_latents
from lumen.diffusion.sampling import run_sampler
from lumen.diffusion.snr import min_snr_weight, predicts_velocity
from lumen.diffusion.stable_diffusion import (
    StableDiffusion,
    encode_latents,
    encode_moments,
    sample_posterior,
    to_device_async,
)


class LatentDiffusion(Generator):
    """Generator in the latents of a frozen Stable Diffusion.

    A subclass says how a layout steers: by `denoise`, and where it has to, by `prompts` and `prepare_layout`. Without a
    layout every subclass generates what the frozen U-Net generates from the caption alone.

    Args:
        base: Frozen autoencoder, text encoder, U-Net and noise schedule.
        prompt_dropout: Share of training prompts that are replaced by the empty one.
        snr_gamma: min-SNR-gamma loss weighting (Hang et al. 2023, arXiv:2303.09556); None means no weighting.
        cache_text: Whether the embeddings of training prompts stay in memory.

    Attributes:
        trained: Network that is trained beside the frozen U-Net, counted apart from it in the cost estimate.
    """

    display_names = {
        "vae": "autoencoder",
        "text_encoder": "text encoder",
        "unet": "U-Net",
        "unet, backward": "U-Net, backward",
    }
    trained: nn.Module | None = None

    def __init__(
        self,
        base: StableDiffusion,
        prompt_dropout: float = 0.0,
        snr_gamma: float | None = None,
        cache_text: bool = False,
    ):
        super().__init__()
        self.base = base  # a plain dataclass: its networks stay out of state_dict, DDP, EMA and train mode
        self.prompt_dropout, self.snr_gamma = prompt_dropout, snr_gamma
        self.prompt_cache: dict[str, Tensor] | None = {} if cache_text else None

    # ---- frozen networks

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

    def decode(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return latents as images in [-1, 1]."""
        return self.base.decode(z)

    @torch.no_grad()
    def reconstruct(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the image after a round trip through the autoencoder."""
        with torch.autocast(image.device.type, enabled=False):
            return self.decode(encode_latents(self.base.vae, image.float()))

    # ---- steering

    def prompts(self, caption: list[str], layout: Float[Tensor, "b k _ _"] | None, sampling: bool = False) -> list[str]:
        """Return the prompt of each image; by default its caption.

        Args:
            sampling: Whether the prompts are for samples, not for the loss.
        """
        return caption

    def prepare_layout(self, layout: Float[Tensor, "b k _ _"], prompts: list[str], size: tuple[int, int]) -> Any:
        """Return what `denoise` gets for the layout: everything about it that is the same at all timesteps.

        Args:
            prompts: Of each image; "" for one that was dropped, and for the negative branch of a guided sample.
            size: Height and width of the latents.
        """
        return layout

    def denoise(
        self, noisy: Float[Tensor, "b z h w"], timesteps: Int[Tensor, "..."], text: Float[Tensor, "b l d"], layout: Any
    ) -> Float[Tensor, "b z h w"]:
        """Return the prediction for noisy latents.

        Args:
            layout: As `prepare_layout` returns it; without one the prediction is the frozen U-Net's.
        """
        return self.base.unet(noisy, timesteps, text, return_dict=False)[0]

    def reusable_activations(
        self, layout: Any, text: Float[Tensor, "b l d"], guided: bool
    ) -> list[tuple[nn.Module, dict[str, nn.Module]]]:
        """Return networks, each with replacements of modules whose outputs are equal at every step or in both branches.

        Args:
            layout: As `prepare_layout` returns it, or None.
        """
        return [(self.base.unet, constant_activations(self.base.unet, text, guided))]

    def compile_networks(self) -> None:
        """Compile `denoise`, not the networks: a backbone's hooks do not fire in a compiled U-Net."""
        self.denoise = torch.compile(self.denoise, dynamic=False)

    # ---- loss

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
            prompts = self.prompts(caption, layout)
            if timesteps is None:
                share = keyed_uniform([(*k, "timestep") for k in keys])
                timesteps = (share * self.num_train_timesteps).long()
                dropped = keyed_uniform([(*k, "prompt") for k in keys]) < self.prompt_dropout
                prompts = ["" if drop else p for p, drop in zip(prompts, dropped.tolist(), strict=True)]
            timesteps = to_device_async(timesteps, device)
            text = self._encode_prompts(prompts)
            steering = self.prepare_layout(layout, prompts, shape[1:])
            # The memory layout of latents decides how convolutions round; cached and fresh latents must be alike.
            noisy = scheduler.add_noise(z, noise, timesteps).contiguous(memory_format=torch.channels_last)
            target = scheduler.get_velocity(z, noise, timesteps) if predicts_velocity(scheduler) else noise
        predicted = self.denoise(noisy, timesteps, text, steering)
        error = F.mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(1)
        return error * min_snr_weight(scheduler, timesteps, self.snr_gamma) if weighted else error

    def _encode_prompts(self, prompts: list[str]) -> Float[Tensor, "b l d"]:
        """Return text embeddings.

        A cached embedding was computed from its prompt alone, so it has the same bits whenever the prompt first occurs,
        also in a resumed run.
        """
        if self.prompt_cache is None:
            return self.base.encode_prompts(prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.prompt_cache]
        self.prompt_cache |= {prompt: self.base.encode_prompts([prompt])[0] for prompt in new}
        return torch.stack([self.prompt_cache[prompt] for prompt in prompts])

    def _apply(self, fn, recurse: bool = True):
        if self.prompt_cache:
            self.prompt_cache.clear()  # of another device or dtype from here on
        return super()._apply(fn, recurse)

    # ---- samples

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
        """Return one sample per caption, layout and seed as latents.

        Args:
            control_end: Share of the steps that the layout steers; the frozen U-Net takes the others.
        """
        base, guided = self.base, guidance > 1
        prompts = self.prompts(caption, layout, sampling=True)
        text = base.encode_prompts([negative] * len(prompts) + prompts if guided else prompts)
        shape = self.latent_shape(size)
        steering = None
        if layout is not None:
            branches = [""] * len(prompts) + prompts if guided else prompts
            steering = self.prepare_layout(torch.cat([layout] * 2) if guided else layout, branches, shape[1:])

        def denoise(noisy: Tensor, t: Tensor, progress: float) -> Tensor:
            return self.denoise(noisy, t, text, steering if progress <= control_end else None)

        with ExitStack() as stack:
            for network, replacements in self.reusable_activations(steering, text, guided):
                stack.enter_context(replace_submodules(network, replacements))
            schedule, device = base.scheduler.config, base.unet.device
            return run_sampler(denoise, schedule, shape, seeds, device, sampler, steps, guidance)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of an image of this height and width."""
        return self.base.unet.config.in_channels, size[0] // self.downscale, size[1] // self.downscale

    # ---- cost

    def loss_stages(
        self, latent_moments: Float[Tensor, "b n h w"], layout: Float[Tensor, "b k _ _"]
    ) -> Iterator[Stage]:
        """Yield the text encoder, and then the U-Net and what is trained with the loss."""
        b = len(latent_moments)
        with torch.no_grad():
            z, text = sample_posterior(self.base.vae, latent_moments), self.base.encode_prompts([""] * b)
        yield Stage("text encoder")
        steering = self.prepare_layout(layout, [""] * b, tuple(z.shape[-2:]))
        predicted = self.denoise(z, torch.zeros(b, dtype=torch.long), text, steering)
        loss = F.mse_loss(predicted.float(), z)
        yield Stage("unet", "forward", loss=loss, trained=self.trained)

    def sample_stages(self, layout: Float[Tensor, "b k _ _"], size: tuple[int, int]) -> Iterator[Stage]:
        """Yield the prompts, one step of the sampler, and the decoder, which decodes images one by one."""
        b, shape = len(layout), self.latent_shape(size)
        text = self.base.encode_prompts([""] * b)
        z = torch.empty(1, *shape)
        steering = self.prepare_layout(layout, [""] * b, shape[1:])
        yield Stage("prompts")
        self.denoise(z.expand(b, -1, -1, -1), torch.zeros(b, dtype=torch.long), text, steering)
        yield Stage("step", repeats=None)
        self.decode(z)
        yield Stage("sampler", "picture")
