"""What the evaluators are shown while they learn, so that they judge painted scenes as they judge rendered ones."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lumen.features.pretrained import SCENES
from lumen.scenes.recipes.vae import pixels

AUTOENCODER = SCENES / "sd" / "vae"
MEAN = STD = (0.5, 0.5, 0.5)
"""Every network here takes pixels in [-1, 1]."""


def softened(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Half of the images as they are; the others blurred and noisy, each by its own amounts.

    An autoencoder smooths and a sampler leaves specks: who has seen neither takes them for another class.
    """
    tap = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device) / 16
    kernel = torch.outer(tap, tap).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    touched = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
    blur, noise = torch.rand(2, len(image), 1, 1, 1, device=image.device) * touched
    return image + blur * (blurred - image) + 0.08 * noise * torch.randn_like(image)


def flipped(some: Tensor, *planes: Tensor) -> list[Tensor]:
    """`planes` (b, ..., W), all of them mirrored left to right in the images of the mask `some` (b,)."""
    return [torch.where(some.view(-1, *[1] * (p.ndim - 1)), p.flip(-1), p) for p in planes]


@torch.no_grad()
def reconstructed(images: UInt8[np.ndarray, "n H W 3"], folder: Path = AUTOENCODER) -> UInt8[np.ndarray, "n H W 3"]:
    """The images after a round trip through the autoencoder: the best that the offline world can paint."""
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    batches = [pixels(some) for some in np.array_split(images, -(-len(images) // 64))]
    shown = torch.cat([vae.decode(vae.encode(batch).latent_dist.mean).sample for batch in batches])
    return ((shown.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
