"""The edge detector of the offline world: a narrow HED, taught the outlines of things and of the horizon."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.features import hed as edges
from lumen.scenes.recipes.augmentations import flipped, softened
from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, pixels

WIDTHS, CONVS = (16, 24, 40, 56, 64), (2, 2, 3, 3, 3)
LEARNT = """\
What was learnt: F1 was 0.84 in a trial of 6,400 images and is 0.96 after 48,000. Norms would be no part of HED, so He's
initialisation keeps its 13 layers in scale. Waves, lane lines and the parts of one thing are no edges here, unlike
for ControlNet's own file. A tolerance of one pixel, without matching one to one, is generous at 64 pixels.
"""


def outlines(semantic: UInt8[np.ndarray, "n H W"], instance: UInt8[np.ndarray, "n H W"]) -> Bool[np.ndarray, "n H W"]:
    """Pixels whose right or lower neighbour shows another class or another thing: lines one pixel wide."""
    lines = np.zeros(semantic.shape, bool)
    for labels in (semantic, instance):
        lines[:, :, :-1] |= labels[:, :, 1:] != labels[:, :, :-1]
        lines[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return lines


def loss(logits: list[Float[Tensor, "b H W"]], truth: Float[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """HED's: cross-entropy of every scale and of their mean, edges and the rest weighing the same in each image."""
    edge = truth.mean((1, 2), keepdim=True)
    weight = torch.where(truth > 0, 1 - edge, edge)
    each = [*logits, torch.stack(logits).mean(0)]
    return sum(F.binary_cross_entropy_with_logits(x, truth, weight) for x in each) / (2 * (edge * (1 - edge)).mean())


@torch.no_grad()
def detected(folder: Path, images: UInt8[np.ndarray, "n H W 3"]) -> Float32[np.ndarray, "n H W"]:
    """Edge probabilities by the network in `folder`."""
    network = edges.load(folder)
    batches = np.array_split(images, math.ceil(len(images) / 64))
    return np.concatenate([network((pixels(some) + 1) * 127.5).numpy() for some in batches])


def thinned(strength: Float32[np.ndarray, "n H W"]) -> Float32[np.ndarray, "n H W"]:
    """Only ridges: pixels that are no weaker than both neighbours along a row, or both along a column."""
    padded = np.pad(strength, ((0, 0), (1, 1), (1, 1)))
    row = (strength >= padded[:, 1:-1, :-2]) & (strength >= padded[:, 1:-1, 2:])
    column = (strength >= padded[:, :-2, 1:-1]) & (strength >= padded[:, 2:, 1:-1])
    return np.where(row | column, strength, 0)


def widened(lines: Bool[np.ndarray, "n H W"]) -> Bool[np.ndarray, "n H W"]:
    """Each pixel and its eight neighbours: what a tolerance of one pixel accepts."""
    padded = np.pad(lines, ((0, 0), (1, 1), (1, 1)))
    h, w = lines.shape[1:]
    return np.any([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def curve(
    strength: Float32[np.ndarray, "n H W"], truth: Bool[np.ndarray, "n H W"], thresholds: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of a whole data set at each threshold, with a tolerance of one pixel.

    Simpler than the benchmark of BSDS: a found pixel counts where a true one is near and a true one where a found
    one is, without matching them one to one.
    """
    thresholds = np.linspace(0.02, 0.98, 49) if thresholds is None else thresholds
    ridges, near = thinned(strength), widened(truth)
    precision, recall = [], []
    for threshold in thresholds:
        found = ridges > threshold
        precision.append((found & near).sum() / found.sum() if found.any() else 1.0)
        recall.append((truth & widened(found)).sum() / max(truth.sum(), 1))
    return np.array(precision), np.array(recall)


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """F1 at the one threshold that is best for the whole split (ODS), and average precision."""
    scenes = drawn(work, split, count, SIZE)
    precision, recall = curve(detected(folder, scenes.image), outlines(scenes.semantic, scenes.instance))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    # by recall from low to high, each step at the best precision that is still to come
    highest = np.maximum.accumulate(precision)[::-1]
    ap = float((np.diff(recall[::-1], prepend=0) * highest).sum())
    return {"ODS F1": float(f1.max()), "average precision": ap}


def train(
    out: Path, work: Path, steps: int = 3_000, batch: int = 16, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 2e-3,
) -> dict:  # fmt: skip
    """Draws, trains, saves to out and measures what was saved; the figures are those of the card."""
    scenes = drawn(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = edges.HED(WIDTHS, CONVS)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # nothing else keeps 13 layers in scale
    # the mean colour, as in ControlNet's file, and a first layer that makes numbers around 1 of bytes
    network.norm.data += torch.tensor(scenes.image[:256].mean((0, 1, 2))).view(1, 3, 1, 1)
    network.block1.convs[0].weight.data /= 64
    network = network.to(memory_format=torch.channels_last)
    course = Course(work / f"edges-{seed}.pt", steps, batch, rate, minutes, seed)

    def of_batch() -> Tensor:
        some = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(outlines(scenes.semantic[some], scenes.instance[some])).float()
        image, truth = flipped(torch.rand(batch) < 0.5, pixels(scenes.image[some]), truth)
        return loss(network.logits((softened(image.to(DEVICE)) + 1) * 127.5), truth.to(DEVICE))

    figures = course.train(network, of_batch)
    network.half().save(out)
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    card(out, __doc__, f"edges {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}", [network], figures, LEARNT)
    return figures
