"""Edge detector of the offline world: a narrow HED, trained on the boundaries of objects and of the horizon."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.features.hed import HED, load_hed
from lumen.scenes.recipes.augmentations import blur_and_noise, flip
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels

WIDTHS, CONVS = (16, 24, 40, 56, 64), (2, 2, 3, 3, 3)
TRAINING_NOTES = """\
Training notes: F1 was 0.84 in a trial of 6,400 images and is 0.96 after 48,000. HED has no normalisation layers, so
He's initialisation keeps its 13 layers in scale. Waves, lane markings and the parts of one object are no edges here,
unlike for ControlNet's own file. A tolerance of one pixel, without one-to-one matching, is generous at 64 pixels.
"""


def label_boundaries(
    semantic: UInt8[np.ndarray, "n H W"], instance: UInt8[np.ndarray, "n H W"]
) -> Bool[np.ndarray, "n H W"]:
    """Return the pixels whose right or lower neighbour has another class or object: lines one pixel wide."""
    lines = np.zeros(semantic.shape, bool)
    for labels in (semantic, instance):
        lines[:, :, :-1] |= labels[:, :, 1:] != labels[:, :, :-1]
        lines[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return lines


def hed_loss(logits: list[Float[Tensor, "b H W"]], truth: Float[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Return HED's loss: the cross-entropy of every scale and of their mean, balanced by class in each image."""
    share = truth.mean((1, 2), keepdim=True)
    weight = torch.where(truth > 0, 1 - share, share)
    outputs = [*logits, torch.stack(logits).mean(0)]
    loss = sum(F.binary_cross_entropy_with_logits(x, truth, weight) for x in outputs)
    return loss / (2 * (share * (1 - share)).mean())


@torch.no_grad()
def detect_edges(directory: Path, images: UInt8[np.ndarray, "n H W 3"]) -> Float32[np.ndarray, "n H W"]:
    """Return edge probabilities by the network of a directory."""
    network = load_hed(directory)
    return np.concatenate([network((to_pixels(batch) + 1) * 127.5).numpy() for batch in split_batches(images)])


def suppress_non_maxima(strength: Float32[np.ndarray, "n H W"]) -> Float32[np.ndarray, "n H W"]:
    """Return the ridges alone: pixels at least as strong as both neighbours along a row, or both along a column."""
    padded = np.pad(strength, ((0, 0), (1, 1), (1, 1)))
    row = (strength >= padded[:, 1:-1, :-2]) & (strength >= padded[:, 1:-1, 2:])
    column = (strength >= padded[:, :-2, 1:-1]) & (strength >= padded[:, 2:, 1:-1])
    return np.where(row | column, strength, 0)


def dilate(lines: Bool[np.ndarray, "n H W"]) -> Bool[np.ndarray, "n H W"]:
    """Return each pixel and its eight neighbours: the tolerance of one pixel."""
    padded = np.pad(lines, ((0, 0), (1, 1), (1, 1)))
    h, w = lines.shape[1:]
    return np.any([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def precision_recall(
    strength: Float32[np.ndarray, "n H W"], truth: Bool[np.ndarray, "n H W"], thresholds: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall of a whole data set at each threshold, with a tolerance of one pixel.

    This is simpler than the benchmark of BSDS: a detected pixel is right if a true pixel is near, and a true pixel is
    recalled if a detected pixel is near, without one-to-one matching.
    """
    thresholds = np.linspace(0.02, 0.98, 49) if thresholds is None else thresholds
    ridges, near = suppress_non_maxima(strength), dilate(truth)
    precision, recall = [], []
    for threshold in thresholds:
        detected = ridges > threshold
        precision.append((detected & near).sum() / detected.sum() if detected.any() else 1.0)
        recall.append((truth & dilate(detected)).sum() / max(truth.sum(), 1))
    return np.array(precision), np.array(recall)


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return F1 at the threshold that is best for the whole split (ODS), and average precision."""
    scenes = render_dataset(work, split, count, SIZE)
    truth = label_boundaries(scenes.semantic, scenes.instance)
    precision, recall = precision_recall(detect_edges(directory, scenes.image), truth)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    # By recall from low to high, each step at the best precision at that recall or above.
    highest = np.maximum.accumulate(precision)[::-1]
    ap = float((np.diff(recall[::-1], prepend=0) * highest).sum())
    return {"ODS F1": float(f1.max()), "average precision": ap}


def build_network(scenes: RenderedScenes) -> HED:
    """Return an untrained HED whose layers have outputs around 1."""
    network = HED(WIDTHS, CONVS)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    # The mean colour, as in ControlNet's file, and a first layer that scales bytes to numbers around 1.
    network.norm.data += torch.tensor(scenes.image[:256].mean((0, 1, 2))).view(1, 3, 1, 1)
    network.block1.convs[0].weight.data /= 64
    return network.to(memory_format=torch.channels_last)


def train(
    out: Path, work: Path, steps: int = 3_000, batch: int = 16, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 2e-3,
) -> dict:  # fmt: skip
    """Train the network, save it to out and evaluate what was saved. Return the rows of the model card."""
    scenes = render_dataset(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = build_network(scenes)
    training = ResumableTraining(work / f"hed-{seed}.pt", steps, batch, rate, minutes, seed)

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(label_boundaries(scenes.semantic[index], scenes.instance[index])).float()
        image, truth = flip(torch.rand(batch) < 0.5, to_pixels(scenes.image[index]), truth)
        return hed_loss(network.logits((blur_and_noise(image.to(DEVICE)) + 1) * 127.5), truth.to(DEVICE))

    metrics = training.run(network, batch_loss)
    network.half().save(out)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"hed {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [network], metrics, TRAINING_NOTES)
    return metrics
