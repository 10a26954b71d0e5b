"""The segmenter of the offline world: a small SegFormer (Xie et al. 2021, arXiv:2105.15203) over its 11 classes."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from lumen.scenes.recipes.augmentations import MEAN, STD, flipped, reconstructed, softened
from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, pixels
from lumen.scenes.world import CLASSES

WIDTHS, DEPTHS = (24, 48, 80, 112), (1, 2, 2, 2)
LEARNT = """\
What was learnt: the loss was 0.55 after 280 steps, 0.14 after 800 and 0.06 after 1,800, where it nearly stopped. Nine
of ten wrong pixels are at a true outline; a logit has two pixels, and a first stride of one would cost 2.5 times the
time. On val seeds intersection over union is 0.89 (car) to 0.92 (house) for things and 0.96 to 0.98 for ground and sky.
After the autoencoder things lose 0.05 to 0.10, cars and boxes most, though half of what it learnt from was softened. It
was shown no round trips, so that it judges the autoencoder as a stranger.
"""


def untrained(widths: tuple[int, ...] = WIDTHS) -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=list(widths), depths=list(DEPTHS), strides=[2, 2, 2, 2], patch_sizes=[5, 3, 3, 3],
            sr_ratios=[4, 2, 1, 1], num_attention_heads=[1, 2, 4, 4], mlp_ratios=[3, 3, 3, 3], decoder_hidden_size=64,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0, drop_path_rate=0.0,
            id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
        )
    )  # fmt: skip


def processor() -> SegformerImageProcessor:
    size = {"height": SIZE, "width": SIZE}
    return SegformerImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD), do_reduce_labels=False)


def logits(network: SegformerForSemanticSegmentation, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 11 H W"]:
    """At the size of the image: the network's own have half of it."""
    return F.interpolate(network(image).logits, image.shape[2:], mode="bilinear", align_corners=False)


def confusion(truth: np.ndarray, found: np.ndarray, classes: int = len(CLASSES)) -> Int[np.ndarray, "classes classes"]:
    """How many pixels of each true class (rows) were taken for which (columns)."""
    pairs = truth.astype(np.int64).ravel() * classes + found.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def miou(counts: Int[np.ndarray, "classes classes"]) -> float:
    """Mean intersection over union of a whole data set, over the classes that are there or were found."""
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


@torch.no_grad()
def segmented(folder: Path, images: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W"]:
    """Class ids by the network in `folder`, loaded like any other of transformers."""
    network = AutoModelForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32).eval()
    prepare = AutoImageProcessor.from_pretrained(folder)
    found = []
    for some in np.array_split(images, math.ceil(len(images) / 64)):
        shown = prepare(list(some), return_tensors="pt").pixel_values
        found.append(logits(network, shown).argmax(1).byte().numpy())
    return np.concatenate(found)


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Dataset-level mIoU of the saved network on scenes it has not seen, and on their autoencoder round trips."""
    scenes = drawn(work, split, count, SIZE)
    plain = miou(confusion(scenes.semantic, segmented(folder, scenes.image)))
    round_trip = miou(confusion(scenes.semantic, segmented(folder, reconstructed(scenes.image))))
    return {"mIoU": plain, "mIoU after the autoencoder": round_trip, "part kept": round_trip / plain}


def train(
    out: Path, work: Path, steps: int = 2_200, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 2e-3,
) -> dict:  # fmt: skip
    """Draws, trains, saves to out and measures what was saved; the figures are those of the card."""
    scenes = drawn(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = untrained().to(memory_format=torch.channels_last)
    course = Course(work / f"segmenter-{seed}.pt", steps, batch, rate, minutes, seed)

    def loss() -> Tensor:
        some = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(scenes.semantic[some]).long()
        image, truth = flipped(torch.rand(batch) < 0.5, pixels(scenes.image[some]), truth)
        return F.cross_entropy(logits(network, softened(image.to(DEVICE))), truth.to(DEVICE))

    figures = course.train(network, loss)
    network.half().save_pretrained(out)
    processor().save_pretrained(out)
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    card(out, __doc__, f"segmenter {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}", [network], figures, LEARNT)
    return figures
