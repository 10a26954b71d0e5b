"""FreestyleNet (Xue et al. 2023, arXiv:2303.14412): the whole U-Net learns to place the names of classes by labels."""

import copy
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.registry import generators
from lumen.diffusion.activation_reuse import constant_activations
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.rectified_attention import EVERY_CLASS, RectifiedAttention, token_masks
from lumen.diffusion.stable_diffusion import StableDiffusion


@generators.register
class FreestyleNet(LatentDiffusion):
    """U-Net of Stable Diffusion that learns as a whole, with rectified cross-attention to the names of classes.

    The prompt is the names of the classes in the image, in the order of their ids. Each name reaches the pixels of its
    class alone. The mark of the beginning and all that follows the names reach every pixel. The negative branch of a
    guided sample, and a training image whose prompt is dropped, have no mask.

    Args:
        caption: Prompts in which the caption follows the names: "never", as in the paper, "samples" or "always".
            A word in the caption reaches every pixel.
        base: Frozen autoencoder, text encoder and noise schedule; training starts from its U-Net, which stays as it is.
        channels: Channels of the label maps: one per class.
        classes: Class names of the data set, in the order of their ids.
        prompt_dropout: Share of training prompts that are replaced by the empty one.
        snr_gamma: min-SNR-gamma loss weighting; None means no weighting.
        checkpointing: Whether the backward pass recomputes activations.
        cache_text: Whether the embeddings of training prompts stay in memory.
    """

    requires = {"conditioning": "segmap"}
    settings = {"lr": 1e-6, "prompt_dropout": 0.0}

    def __init__(
        self,
        caption: Literal["never", "samples", "always"] = "never",
        *,
        base: StableDiffusion,
        channels: int,
        classes: tuple[str, ...],
        prompt_dropout: float = 0.0,
        snr_gamma: float | None = None,
        checkpointing: bool = False,
        cache_text: bool = False,
    ):
        super().__init__(base, prompt_dropout, snr_gamma, cache_text)
        if channels != len(classes):
            raise BadConfig(
                f"generator=freestyle needs label maps of one channel per class, {len(classes)} in all, and gets "
                f"{channels}; leave conditioning.form out, or give conditioning.form=channels."
            )
        self.caption, self.classes = caption, classes
        self.name_lengths = [len(base.tokenizer(name, add_special_tokens=False).input_ids) for name in classes]
        base.unet.disable_gradient_checkpointing()  # it is shared, and another generator may have set it
        self.unet: UNet2DConditionModel = copy.deepcopy(base.unet).float().requires_grad_(True)
        self.unet.set_attn_processor(RectifiedAttention())
        if checkpointing:
            self.unet.enable_gradient_checkpointing()

    def prompts(self, caption: list[str], layout: Float[Tensor, "b k _ _"] | None, sampling: bool = False) -> list[str]:
        """Return the names of the classes in each label map, with the captions after them where they are wanted."""
        if layout is None:
            return caption
        names = [[self.classes[i] for i in present] for present in _present_classes(layout)]
        has_endings = self.caption == "always" or (sampling and self.caption == "samples")
        endings = caption if has_endings else [""] * len(caption)
        return [" ".join(filter(None, [*words, ending])) for words, ending in zip(names, endings, strict=True)]

    def prepare_layout(
        self, layout: Float[Tensor, "b k _ _"], prompts: list[str], size: tuple[int, int]
    ) -> dict[int, Bool[Tensor, "b _ n"]]:
        """Return the masks of cross-attention by number of queries; an empty prompt reaches every pixel."""
        classes = self.token_classes(layout, prompts).to(layout.device)
        return token_masks(layout, classes, size, len(self.unet.config.block_out_channels))

    def token_classes(self, layout: Float[Tensor, "b k _ _"], prompts: list[str]) -> Int[Tensor, "b n"]:
        """Return the class that each token of a prompt names, or EVERY_CLASS."""
        length = self.base.token_ids(prompts).shape[1]
        classes = torch.full((len(prompts), length), EVERY_CLASS)
        if not any(prompts):
            return classes
        for row, prompt, present in zip(classes, prompts, _present_classes(layout), strict=True):
            if prompt:
                names = [i for i in present for _ in range(self.name_lengths[i])][: length - 2]
                row[1 : 1 + len(names)] = torch.tensor(names, dtype=torch.long)
        return classes

    def denoise(
        self,
        noisy: Float[Tensor, "b z h w"],
        timesteps: Int[Tensor, "..."],
        text: Float[Tensor, "b l d"],
        layout: dict[int, Bool[Tensor, "b _ n"]] | None,
    ) -> Float[Tensor, "b z h w"]:
        """Return the prediction of the U-Net that learns, or without masks that of the frozen one."""
        if layout is None:
            return super().denoise(noisy, timesteps, text, None)
        masks = {"token_masks": layout}
        return self.unet(noisy, timesteps, text, cross_attention_kwargs=masks, return_dict=False)[0]

    def reusable_activations(
        self, layout: Any, text: Float[Tensor, "b l d"], guided: bool
    ) -> list[tuple[nn.Module, dict[str, nn.Module]]]:
        """Return those of the frozen U-Net, and of the one that learns."""
        in_frozen = super().reusable_activations(layout, text, guided)
        return in_frozen if layout is None else [*in_frozen, (self.unet, constant_activations(self.unet, text, guided))]


def _present_classes(layout: Float[Tensor, "b k _ _"]) -> list[list[int]]:
    """Return the ids of the classes that each label map shows."""
    present = (layout > 0.5).flatten(2).any(2).tolist()
    return [[i for i, is_present in enumerate(row) if is_present] for row in present]
