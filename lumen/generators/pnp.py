"""Plug-and-Play diffusion (Tumanyan et al. 2023, arXiv:2211.12572): features of an inverted image, without training."""

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Stage
from lumen.core.patching import FirstPart, replace_submodules
from lumen.core.ranges import Range, Share
from lumen.core.registry import generators
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import cached_cross_attention_kv
from lumen.diffusion.inversion import invert_ddim
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.sampling import build_sampler, run_steps
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents

CONVOLUTION = "up_blocks.1.resnets.1.conv2"
SELF_ATTENTIONS = [(1, 1), (1, 2), *((block, layer) for block in (2, 3) for layer in range(3))]
QUERIES_AND_KEYS = [
    f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0.attn1.{projection}"
    for block, layer in SELF_ATTENTIONS
    for projection in ("to_q", "to_k")
]


@generators.register
class PnP(LatentDiffusion):
    """Frozen Stable Diffusion that repeats the structure of a reference image under a new caption.

    The reference is inverted by DDIM under the empty prompt. Each sample starts from its last latents. At each step the
    U-Net sees the inverted latents beside those of the sample, whose features of one convolution and whose queries
    and keys of eight self-attentions are replaced by the reference's. Nothing is random, and nothing is trained.

    Args:
        inversion_steps: Steps of the inversion, beside the sampler's own.
        conv_share: Share of the steps in which the convolution is replaced (pnp_f_t).
        attention_share: Share of the steps in which queries and keys are replaced (pnp_attn_t).
        base: Frozen autoencoder, text encoder, U-Net and noise schedule.
    """

    requires = {"conditioning": "reference", "steps": 0}

    def __init__(
        self,
        inversion_steps: Annotated[int, Range(1, 1000)] = 999,
        conv_share: Share = 0.8,
        attention_share: Share = 0.5,
        *,
        base: StableDiffusion,
    ):
        super().__init__(base)
        base.unet.disable_gradient_checkpointing()  # the U-Net is shared, and another generator may have set it
        self.inversion_steps, self.conv_share, self.attention_share = inversion_steps, conv_share, attention_share
        self.last: tuple[Tensor, dict[int, Tensor]] | None = None  # images and their inversion
        modules = dict(base.unet.named_modules())
        if lacking := [name for name in (CONVOLUTION, *QUERIES_AND_KEYS) if name not in modules]:
            raise BadConfig(
                f"generator=pnp replaces features of {lacking[0]}, which the U-Net of {base.source} does not have; it "
                "needs one with the blocks of Stable Diffusion 1 or 2."
            )

    @torch.no_grad()
    def sample_latents(
        self,
        caption: list[str],
        layout: Float[Tensor, "b 3 _ _"] | None,
        seeds: list[int],
        size: tuple[int, int],
        sampler: str = "ddim",
        steps: int = 25,
        guidance: float = 7.5,
        negative: str = "",
        control_end: float = 1.0,
    ) -> Float[Tensor, "b z h w"]:
        """Return latents for each caption and reference, whatever the seeds; without references, from the seeds.

        Args:
            layout: References as RGB in [0, 1].
            control_end: Share of the steps after which nothing is replaced any more.
        """
        if layout is None:
            return super().sample_latents(caption, None, seeds, size, sampler, steps, guidance, negative)
        base, b, branches = self.base, len(caption), 1 + (guidance > 1)
        scheduler = build_sampler(base.scheduler.config, sampler, steps)
        timesteps = scheduler.timesteps.tolist()
        inverted = self.invert(resize(layout, size) * 2 - 1, timesteps)
        text = base.encode_prompts([""] * b + [negative] * b * (branches - 1) + caption)

        def denoise(noisy: Tensor, t: Tensor, progress: float) -> Tensor:
            replacements = self._replacements(progress, 1 + branches) if progress <= control_end else {}
            if not replacements:  # then the reference need not be seen
                return base.unet(noisy, t, text[b:], return_dict=False)[0]
            source = inverted[timesteps[round(progress * len(timesteps)) - 1]]
            with replace_submodules(base.unet, replacements):
                return base.unet(torch.cat([source, noisy]), t, text, return_dict=False)[0][b:]

        return run_steps(denoise, scheduler, inverted[timesteps[0]], guidance)

    def invert(self, image: Float[Tensor, "b 3 H W"], timesteps: list[int]) -> dict[int, Float[Tensor, "b z h w"]]:
        """Return the latents of images in [-1, 1] at these timesteps, with noise that leads back to the images.

        Those of the last images stay in memory, for further samples and other captions.
        """
        base = self.base
        if self.last is None or list(self.last[1]) != sorted(timesteps) or not _equal(self.last[0], image):
            fine = build_sampler(base.scheduler.config, "ddim", self.inversion_steps).timesteps.tolist()
            ascending = sorted({t for t in (*timesteps, *fine) if t <= max(timesteps)})
            text = base.encode_prompts([""] * len(image))
            with torch.autocast(image.device.type, enabled=False):
                z = encode_latents(base.vae, image.to(base.vae.dtype))

            def predict(noisy: Tensor, t: Tensor) -> Tensor:
                return base.unet(noisy, t, text, return_dict=False)[0]

            with replace_submodules(base.unet, cached_cross_attention_kv(base.unet, text)):
                path = invert_ddim(predict, base.scheduler.config, z, ascending)
                self.last = image, {t: noisy for t, noisy in path if t in timesteps}
        return self.last[1]

    def sample_stages(self, layout: Float[Tensor, "b k _ _"], size: tuple[int, int]) -> Iterator[Stage]:
        """Yield one step of the inversion, and what samples take, where each branch counts the reference once."""
        z, text = torch.empty(1, *self.latent_shape(size)), self.base.encode_prompts([""])
        self.base.unet(z, torch.zeros(1, dtype=torch.long), text, return_dict=False)
        del z, text
        yield Stage("inversion", repeats=self.inversion_steps)
        yield from super().sample_stages(torch.cat([layout, layout]), size)

    def _replacements(self, progress: float, parts: int) -> dict[str, nn.Module]:
        """Return modules that compute the first part of the batch alone, at the step that ends this share of all."""
        names = [CONVOLUTION] if progress <= self.conv_share else []
        names += QUERIES_AND_KEYS if progress <= self.attention_share else []
        return {name: FirstPart(self.base.unet.get_submodule(name), parts) for name in names}


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
