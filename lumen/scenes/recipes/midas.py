"""The depth estimator that conditions: MiDaS' architecture (DPT, Ranftl et al. 2021, arXiv:2103.13413), very small."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DPTConfig, DPTForDepthEstimation

from lumen.scenes.recipes.augmentations import flipped, softened
from lumen.scenes.recipes.depth import estimated, processor
from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, pixels

WIDTH, LAYERS = 96, 4
LEARNT = """\
What was learnt: a trial of 3,300 images reached a correlation of 0.93; the loss was 0.28 after 500 steps and 0.21 at
the end, where it fell no more. Patches of 8 pixels leave outlines soft. Inverse depth is largest at the lower edge of a
picture, so that the ground decides the correlation; that the nearer of two pixels is known says more of things.
"""


def untrained(width: int = WIDTH) -> DPTForDepthEstimation:
    """Patches of 8 pixels; the scales of the neck are half of DPT's, so that it answers at the size of the image."""
    network = DPTForDepthEstimation(
        DPTConfig(
            image_size=SIZE, patch_size=8, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=LAYERS,
            num_attention_heads=4, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[24, 32, 48, 64],
            reassemble_factors=[2, 1, 0.5, 0.25], fusion_hidden_size=32, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, use_auxiliary_head=False, is_hybrid=False, readout_type="project",
        )
    )  # fmt: skip
    # the head ends in a ReLU, which would stay shut if it began below zero
    torch.nn.init.constant_(network.head.head[-2].bias, 1.0)
    return network


def inverse(depth: Float[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
    """1 / metres, 0 in the sky."""
    return 1 / depth


def normalised(x: Float[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
    """Without the scale and shift that MiDaS leaves open: median 0, mean absolute value 1, in each image."""
    x = x - x.flatten(1).median(1).values[:, None, None]
    return x / x.abs().mean((1, 2), keepdim=True).clamp(min=1e-4)


def loss(found: Float[Tensor, "b H W"], truth: Float[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Scale- and shift-invariant error of inverse depth and of its differences between neighbours (as MiDaS')."""
    error = normalised(found) - normalised(inverse(truth))
    return error.abs().mean() + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def correlation(found: Float[np.ndarray, "n H W"], truth: Float[np.ndarray, "n H W"]) -> float:
    """Pearson's, of each image, mean over images: 1 where found is truth up to scale and shift."""
    pairs = zip(found.reshape(len(found), -1), truth.reshape(len(truth), -1), strict=True)
    # a prediction that is the same everywhere says nothing
    return float(np.mean([np.corrcoef(f, t)[0, 1] if f.std() > 1e-6 else 0.0 for f, t in pairs]))


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Of scenes it has not seen: correlation with inverse depth, and how often it knows the nearer of two pixels.

    The pairs are drawn from those of the whole image whose depths differ by a tenth or more.
    """
    scenes = drawn(work, split, count, SIZE)
    found, truth = estimated(folder, scenes.image), 1 / scenes.depth
    places = np.random.RandomState(0).randint(SIZE * SIZE, size=(2, count, 1000))
    f, t = ([np.take_along_axis(x.reshape(count, -1), p, 1) for p in places] for x in (found, truth))
    told: Bool[np.ndarray, "n pairs"] = np.maximum(*t) > 1.1 * np.minimum(*t)
    return {
        "correlation": correlation(found, truth),
        "nearer of two": float(((f[0] > f[1]) == (t[0] > t[1]))[told].mean()),
    }


def train(
    out: Path, work: Path, steps: int = 1_600, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 1e-3,
) -> dict:  # fmt: skip
    """Draws, trains, saves to out and measures what was saved; the figures are those of the card."""
    scenes = drawn(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = untrained().to(memory_format=torch.channels_last)
    course = Course(work / f"midas-{seed}.pt", steps, batch, rate, minutes, seed)

    def of_batch() -> Tensor:
        some = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(scenes.depth[some])
        image, truth = flipped(torch.rand(batch) < 0.5, pixels(scenes.image[some]), truth)
        return loss(network(softened(image.to(DEVICE))).predicted_depth, truth.to(DEVICE))

    figures = course.train(network, of_batch)
    network.half().save_pretrained(out)
    processor().save_pretrained(out)
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    card(out, __doc__, f"midas {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}", [network], figures, LEARNT)
    return figures
