"""Label-to-image GAN of the offline world: OASIS in the autoencoder's latents, with noise per class."""

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from lumen.core.random import stable_seed
from lumen.features.oasis import OasisConfig, OasisGenerator, save_oasis
from lumen.scenes.recipes.augmentations import AUTOENCODER
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.multimodality import evaluate
from lumen.scenes.recipes.rendered_dataset import render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.unet import encode_dataset
from lumen.scenes.recipes.vae import SIZE
from lumen.scenes.world import CLASSES

__all__ = ["evaluate", "train"]

CONFIG = OasisConfig(classes=CLASSES, noise=16, widths=(96, 96, 64, 64), hidden=32, patch=4, channels=4)
WIDTHS = (48, 64, 96)  # of the discriminator
LABEL_MIX_WEIGHT = 10  # as published
SEEK_WEIGHT, SEEK_LIMIT = 1.5, 0.4  # of the mode-seeking term; a weight of 8 destroys the layout
BETAS = (0.0, 0.999)  # as published
DECAY_SHARE = 0.2  # of the steps, at the end
STATISTICS_BATCHES = 50  # from which the averaged weights get their batch statistics, as published
TRAINING_NOTES = """\
Training notes: this is OASIS (arXiv:2012.04781) with three changes. It generates the autoencoder's latents, which is
four to nine times as fast as pixels. Each class has its own noise. A mode-seeking term (arXiv:1903.05628) keeps the
noise from being ignored, which plain OASIS does here: without it two noises differ by 0.024 of the range of a pixel.
Generator and discriminator learn in one step of AdamW, clipped together, at the rate that OASIS has for Cityscapes.
Spectral norms are folded into the saved weights. Layouts come within 10,000 images; colours that follow the noise come
later.
"""


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, spectrally normalised."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(width, outputs, 3, padding=1)) for width in (channels, outputs)
        )
        self.shortcut = spectral_norm(nn.Conv2d(channels, outputs, 1, bias=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        shortcut = self.shortcut(x)
        for conv in self.convs:
            x = conv(F.leaky_relu(x, 0.2))
        return shortcut + x


class Discriminator(nn.Module):
    """U-Net that gives each cell a logit for "generated" and one for each class."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(channels, widths[0], 3, padding=1))
        self.fine = ResidualBlock(widths[0], widths[0])
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(ResidualBlock(a, b) for a, b in pairs)
        self.up = nn.ModuleList(ResidualBlock(a + b, a) for a, b in reversed(pairs))
        self.head = nn.Conv2d(widths[0], 1 + classes, 1)

    def forward(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
        skips = [self.fine(self.stem(z))]
        for block in self.down:
            skips.append(block(F.avg_pool2d(skips[-1], 2)))
        x = skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], 1))
        return self.head(F.leaky_relu(x, 0.2))


class Adversaries(nn.Module):
    """Generator and discriminator, in one module so that the training state holds both."""

    def __init__(self, config: OasisConfig = CONFIG):
        super().__init__()
        self.generator = OasisGenerator(config)
        self.discriminator = Discriminator(config.channels, len(config.classes))

    def forward(
        self, real: Float[Tensor, "b z h w"], labels: Int[Tensor, "b H W"], noise: Float[Tensor, "2 b c n"],
        coins: Bool[Tensor, " c"],
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Return the losses of both, whose gradients stay apart.

        Args:
            real: Normalised latents.
            noise: Two noises of each image, for the mode-seeking term; the discriminator sees the first.
            coins: Classes whose cells are real in LabelMix.
        """
        shares = self.generator.shares(labels, real.shape[-2:])
        fake, other = self.generator(torch.cat([labels, labels]), noise.flatten(0, 1)).chunk(2)
        self.discriminator.requires_grad_(False)
        loss = segmentation_loss(self.discriminator(fake), shares)
        self.discriminator.requires_grad_(True)
        loss = loss - SEEK_WEIGHT * mode_seeking(fake, other, *noise)
        return loss + self.discriminator_loss(real, fake.detach(), shares, coins[shares.argmax(1)][:, None])

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, shares: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b 1 h w"]
    ) -> Float[Tensor, ""]:
        """Return the losses of real and generated cells, and that of LabelMix: consistency where both are mixed."""
        mixed = torch.where(mask, real, fake)
        of_real, of_fake, of_mixed = self.discriminator(torch.cat([real, fake, mixed])).chunk(3)
        consistency = F.mse_loss(of_mixed, torch.where(mask, of_real, of_fake))
        generated = -of_fake.log_softmax(1)[:, 0].mean()
        return segmentation_loss(of_real, shares) + generated + LABEL_MIX_WEIGHT * consistency


def segmentation_loss(logits: Float[Tensor, "b d h w"], shares: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the cross-entropy of the classes, each weighted by the inverse of its share of the batch.

    Args:
        logits: That of "generated" first.
        shares: Shares of the classes in each cell.
    """
    area = shares.sum((0, 2, 3))
    weight = torch.where(area > 0, area.sum() / (area * (area > 0).sum()).clamp(min=1e-6), 0)
    entropy = -(shares * logits.log_softmax(1)[:, 1:] * weight[:, None, None]).sum(1)
    return entropy.mean()


def mode_seeking(x: Tensor, y: Tensor, z: Float[Tensor, "b c n"], w: Float[Tensor, "b c n"]) -> Float[Tensor, ""]:
    """Return the distance of two outputs over that of their noises, up to a limit (Mao et al. 2019)."""
    ratio = (x - y).abs().mean((1, 2, 3)) / (z - w).abs().mean((1, 2))
    return ratio.clamp(max=SEEK_LIMIT).mean()


@torch.no_grad()
def renew_statistics(generator: OasisGenerator, labels: Iterable[Int[Tensor, "b H W"]]) -> None:
    """Compute the batch statistics of averaged weights, and renew the estimates of their spectral norms."""
    config = generator.config
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    generator.train()
    for batch in labels:
        generator(batch, torch.randn(len(batch), len(config.classes), config.noise))
    generator.eval()


def train(
    out: Path, work: Path, steps: int = 30_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 65_536, held_out: int = 512, rate: float = 4e-4, start: Path | None = None,
) -> dict:  # fmt: skip
    """Train the generator, save it to out and evaluate what was saved. Return the rows of the model card.

    Args:
        start: `weights_file` of another training, which this one continues.
    """
    scenes = render_dataset(work, "train", images, SIZE)
    latents = encode_dataset(work, AutoencoderKL.from_pretrained(AUTOENCODER).eval(), "train", images)[0]
    torch.manual_seed(seed)
    networks = Adversaries()
    generator = networks.generator
    generator.mean.copy_(latents.mean((0, 2, 3))[:, None, None])
    generator.deviation.copy_(latents.std((0, 2, 3))[:, None, None])
    networks.to(memory_format=torch.channels_last)
    training = ResumableTraining(
        work / f"oasis-{seed}.pt", steps, batch, rate, minutes, seed, decay_share=DECAY_SHARE, start=start, betas=BETAS
    )

    def sample_labels() -> tuple[Int[Tensor, " b"], Int[Tensor, "b H W"]]:
        index = torch.randint(images, (batch,))
        return index, torch.tensor(scenes.semantic[index.numpy()]).long()

    def batch_loss() -> Tensor:
        index, labels = sample_labels()
        noise, coins = torch.randn(2, batch, len(CLASSES), CONFIG.noise), torch.rand(len(CLASSES)) < 0.5
        real, labels, noise, coins = (x.to(DEVICE) for x in (latents[index], labels, noise, coins))
        return networks((real - generator.mean) / generator.deviation, labels, noise, coins)

    metrics = training.run(networks, batch_loss)
    torch.manual_seed(stable_seed(seed, "statistics"))  # a command that resumes at the end computes the same
    renew_statistics(generator, (sample_labels()[1] for _ in range(STATISTICS_BATCHES)))
    save_oasis(out, generator.fold())
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"oasis {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [generator], metrics, TRAINING_NOTES)
    return metrics
