"""Augmentations of the evaluation networks, so that they score generated scenes as they score rendered ones."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.scenes.recipes.vae import split_batches, to_pixels

AUTOENCODER = SCENES_WEIGHTS / "sd" / "vae"
MEAN = STD = (0.5, 0.5, 0.5)
"""Normalisation to [-1, 1], which every network here takes."""


def blur_and_noise(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Return half of the images unchanged, and the others blurred and noisy, each by its own amounts.

    An autoencoder smooths and a sampler leaves specks. A network trained without both mistakes them for another class.
    """
    tap = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device) / 16
    kernel = torch.outer(tap, tap).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    selected = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
    blur, noise = torch.rand(2, len(image), 1, 1, 1, device=image.device) * selected
    return image + blur * (blurred - image) + 0.08 * noise * torch.randn_like(image)


def flip(mask: Bool[Tensor, " b"], *planes: Tensor) -> list[Tensor]:
    """Return `planes` (b, ..., W), all of them mirrored left to right in the images of the mask."""
    return [torch.where(mask.view(-1, *[1] * (p.ndim - 1)), p.flip(-1), p) for p in planes]


@torch.no_grad()
def reconstruct(images: UInt8[np.ndarray, "n H W 3"], directory: Path = AUTOENCODER) -> UInt8[np.ndarray, "n H W 3"]:
    """Return the images after a round trip through the autoencoder: the best that the offline world can generate."""
    vae = AutoencoderKL.from_pretrained(directory, torch_dtype=torch.float32).eval()
    batches = [to_pixels(batch) for batch in split_batches(images)]
    decoded = torch.cat([vae.decode(vae.encode(batch).latent_dist.mean).sample for batch in batches])
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
