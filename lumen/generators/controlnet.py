"""ControlNet (Zhang et al. 2023, arXiv:2302.05543) on a frozen Stable Diffusion: loss and sampler."""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from jaxtyping import Float, Int
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lumen.core.errors import BadConfig, Note
from lumen.core.patching import ConstantOutput
from lumen.core.random import stable_seed
from lumen.core.registry import generators
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import constant_activations
from lumen.diffusion.hint_encoder import adapt_hint_encoder, enlarge_hint_encoder, hint_channels, init_hint_encoder
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.stable_diffusion import StableDiffusion

ENCODER = "controlnet_cond_embedding"  # diffusers' name of the hint encoder
VARIANTS = (
    "global_pool_conditions",
    "controlnet_conditioning_channel_order",
)  # of its config


@generators.register
class ControlNet(LatentDiffusion):
    """ControlNet that steers a frozen Stable Diffusion by a layout.

    Both branches of a guided sample see the layout. After `control_end` the ControlNet is not run; diffusers'
    `control_guidance_end` runs it and multiplies by zero.

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
        controlnet: Published ControlNet to start from, in place of the U-Net. Its hint encoder is taken too if it fits
            the layout: one for RGB images fits a layout of one channel, which all three get.
    """

    display_names = LatentDiffusion.display_names | {
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
        controlnet: ControlNetModel | None = None,
    ):
        super().__init__(base, prompt_dropout, snr_gamma, cache_text)
        self.hint = hint
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
        if controlnet is not None:
            self._start_from(controlnet)
        for network in (self.controlnet, base.unet):  # the U-Net is shared, and another generator may have set it
            network.enable_gradient_checkpointing() if checkpointing else network.disable_gradient_checkpointing()

    def _start_from(self, published: ControlNetModel) -> None:
        """Take over the weights of a published ControlNet.

        Raises:
            BadConfig: It belongs to another U-Net, or is of another kind.
        """
        own, layout_channels = self.controlnet.state_dict(), self.controlnet.config.conditioning_channels
        state = {key: value for key, value in published.state_dict().items() if not key.startswith(ENCODER)}
        shapes = {key: value.shape for key, value in own.items() if not key.startswith(ENCODER)}
        variants = [key for key in VARIANTS if published.config[key] != self.controlnet.config[key]]
        if variants or shapes != {key: value.shape for key, value in state.items()}:
            cause = f"has {variants[0]}={published.config[variants[0]]}" if variants else "was made for another U-Net"
            raise BadConfig(
                f"diffusion.controlnet holds a ControlNet that {cause}; choose one for the diffusion.weights of this "
                "run, such as lllyasviel/control_v11p_sd15_canny for Stable Diffusion 1.5."
            )
        self.controlnet.load_state_dict(state, strict=False)
        stages = len(self.controlnet.controlnet_cond_embedding.blocks) // 2 + 1
        encoder = adapt_hint_encoder(published.controlnet_cond_embedding, layout_channels, stages, self.downscale)
        if encoder is None:
            rank_zero_warn(
                f"the hint encoder of the published ControlNet takes {published.config.conditioning_channels} channels "
                f"and does not fit this layout of {layout_channels} channels at the size of the "
                f"{'image' if self.hint == 'image' else 'latents'}; a new one takes its place, and the layout has no "
                "effect until it is trained.",
                category=Note,
            )
            return
        self.controlnet.controlnet_cond_embedding = encoder
        widths = [encoder.conv_in, *encoder.blocks[1::2]]
        self.controlnet.register_to_config(conditioning_embedding_out_channels=[conv.out_channels for conv in widths])

    def export(self, directory: Path) -> dict[str, Any]:
        """Write a folder that `ControlNetModel.from_pretrained` opens, for layouts at the size of the image."""
        config, state = dict(self.controlnet.config), self.controlnet.state_dict()
        if self.hint == "latent":
            encoder = enlarge_hint_encoder(self.controlnet.controlnet_cond_embedding, self.downscale)
            widths = [conv.out_channels for conv in (encoder.conv_in, *encoder.blocks[1::2])]
            config["conditioning_embedding_out_channels"] = widths
            state = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
            state |= {f"{ENCODER}.{key}": value for key, value in encoder.state_dict().items()}
        with torch.device("meta"):
            exported = ControlNetModel.from_config(config)
        exported.load_state_dict({key: value.contiguous() for key, value in state.items()}, assign=True)
        exported.save_pretrained(directory)
        return {"channels": exported.config.conditioning_channels, "hint": self.hint}

    @property
    def trained(self) -> nn.Module:
        """The ControlNet."""
        return self.controlnet

    def prepare_layout(
        self, layout: Float[Tensor, "b k _ _"], prompts: list[str], size: tuple[int, int]
    ) -> Float[Tensor, "b k _ _"]:
        """Return the layout at the resolution at which it enters."""
        return resize(layout, self._hint_size(size))

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

    def reusable_activations(
        self, layout: Float[Tensor, "b k _ _"] | None, text: Float[Tensor, "b l d"], guided: bool
    ) -> list[tuple[nn.Module, dict[str, nn.Module]]]:
        """Return those of the U-Net, and of the ControlNet with its encoded hint."""
        in_unet = super().reusable_activations(layout, text, guided)
        if layout is None:
            return in_unet
        hint = {ENCODER: ConstantOutput(self.controlnet.get_submodule(ENCODER)(layout))}
        return [*in_unet, (self.controlnet, hint | constant_activations(self.controlnet, text, guided))]

    def _hint_size(self, latents: tuple[int, ...]) -> tuple[int, int]:
        factor = self.downscale if self.hint == "image" else 1
        return latents[-2] * factor, latents[-1] * factor
