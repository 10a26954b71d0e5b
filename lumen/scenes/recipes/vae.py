"""The autoencoder of the offline world: 64 px to 16 x 16 latents of 4 channels, and back."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course

SIZE = 64
CHANNELS = (16, 32, 64)
LEARNT = """\
What was learnt: with 16 channels at full resolution (0.7 M parameters) a core takes 1.6 times the images per second
that 32 (1 M) allow, and the ratio was 23 dB after 300 steps and 29 dB after 1,100, both on val seeds, most of the rest
coming as the learning rate fell. The first 300 steps find shapes without colours; what is left at the end is softness,
falling snow that is smoothed away, and purple that tends to blue. `torch.compile` gained nothing on a CPU.
The four channels keep unequal spreads (about 3.4, 1.5, 2.1 and 1.3 before scaling).
"""


def pixels(images: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
    """Bytes as numbers in [-1, 1], channels last in memory, as convolutions on a CPU like it."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def untrained(channels: tuple[int, ...] = CHANNELS) -> AutoencoderKL:
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIZE,
    )


def loss(vae: AutoencoderKL, image: Float[Tensor, "b 3 H W"], noise: Float[Tensor, "b 4 h w"]) -> Float[Tensor, ""]:
    """Mean absolute error of pixels and of their differences, and a Kullback-Leibler term as in latent diffusion.

    That term is weighted 1000 times more than Stable Diffusion's 1e-6: it costs no sharpness yet, and the decoder
    meets latents that are a little wrong, as those of a small U-Net will be.
    """
    posterior = vae.encode(image).latent_dist
    error = vae.decode(posterior.mean + posterior.std * noise).sample - image
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * edges + 1e-3 * posterior.kl().mean() / image[0].numel()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: UInt8[np.ndarray, "n H W 3"]) -> float:
    """Peak signal-to-noise ratio of the round trip in dB, the mean over images."""
    values = []
    for some in np.array_split(images, math.ceil(len(images) / 64)):
        image = pixels(some)
        error = vae.decode(vae.encode(image).latent_dist.mean).sample.clamp(-1, 1) - image
        values.append(-10 * torch.log10(error.square().mean((1, 2, 3)) / 4))
    return torch.cat(values).mean().item()


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """The round trip of the autoencoder saved in a pipeline's folder."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    return {"PSNR, dB": psnr(vae, drawn(work, split, count, SIZE).image)}


@torch.no_grad()
def encoded(
    vae: AutoencoderKL, images: UInt8[np.ndarray, "n H W 3"]
) -> tuple[Float[Tensor, "n 4 h w"], Float[Tensor, "n 4 h w"]]:
    """Mean and standard deviation of the latents of every image, unscaled, as half floats."""
    posteriors = [vae.encode(pixels(some)).latent_dist for some in np.array_split(images, math.ceil(len(images) / 64))]
    return torch.cat([p.mean.half() for p in posteriors]), torch.cat([p.std.half() for p in posteriors])


def train(
    out: Path, work: Path, steps: int = 40_000, batch: int = 16, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 2e-3,
) -> dict:  # fmt: skip
    """Draws, trains, measures and saves to out/vae; the figures are those of the card."""
    pictures = drawn(work, "train", images, SIZE).image
    torch.manual_seed(seed)
    vae = untrained().to(memory_format=torch.channels_last)
    course = Course(work / f"vae-{seed}.pt", steps, batch, rate, minutes, seed)

    def of_batch() -> Tensor:
        some = torch.randint(images, (batch,)).numpy()
        noise = torch.randn(batch, 4, SIZE // 4, SIZE // 4)
        return loss(vae, pixels(pictures[some]).to(DEVICE), noise.to(DEVICE))

    figures = course.train(vae, of_batch)
    mean, _ = encoded(vae, pictures[:2048])
    # Stable Diffusion's rule: what the U-Net denoises has standard deviation 1
    vae.register_to_config(scaling_factor=round(1 / mean.float().std().item(), 5))
    vae.half().save_pretrained(out / "vae")
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    card(out / "vae", __doc__, f"vae {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}", [vae], figures, LEARNT)
    return figures
