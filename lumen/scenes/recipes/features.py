"""Feature network for image comparison: a small ResNet trained to name the content of a scene."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from timm.models import ResNet, save_for_hf
from torch import Tensor
from torch.nn import functional as F

from lumen.evaluation.metrics.fid import frechet_distance
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.recipes.augmentations import MEAN, STD, blur_and_noise, flip
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels
from lumen.scenes.world import CLASSES, GROUNDS, SKIES

OBJECTS = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
LABELS = (*GROUNDS, *SKIES, *OBJECTS, *(f"share of {name}" for name in CLASSES))
"""Outputs: a logit for each ground, sky and object; the square root of the area share of each class."""
LABEL_COUNTS = [len(GROUNDS), len(SKIES), len(OBJECTS), len(CLASSES)]
CHANNELS = (32, 64, 128, 192)
TRAINING_NOTES = """\
Training notes: ground and sky are known after 10,000 images. The pairs of colour and kind take longer: mean average
precision was 0.26 in a trial of 10,000 images and is 0.99 after 96,000. The Fréchet distance grows with blur and with
noise at every level tried. It grows far faster if noise is stronger than in training (10 in 255 at most).
"""


def build_network() -> ResNet:
    """Return timm's smallest ResNet, narrower: a vector of 192 and stages of 1/2 to 1/32 of the image's size."""
    return timm.create_model("resnet10t", pretrained=False, num_classes=len(LABELS), channels=CHANNELS, stem_width=24)


def scene_labels(scenes: RenderedScenes) -> Float[Tensor, "n labels"]:
    """Return the content of each scene in the order of `LABELS`."""
    rows = np.zeros((len(scenes.graphs), len(LABELS)), np.float32)
    column = {name: i for i, name in enumerate(LABELS)}
    for row, graph, semantic in zip(rows, scenes.graphs, scenes.semantic, strict=True):
        names = [graph["ground"], graph["sky"], *(f"{obj['colour']} {obj['kind']}" for obj in graph["objects"])]
        row[[column[name] for name in names]] = 1
        row[-len(CLASSES) :] = np.sqrt(np.bincount(semantic.ravel(), minlength=len(CLASSES)) / semantic.size)
    return torch.tensor(rows)


def content_loss(predicted: Float[Tensor, "b labels"], truth: Float[Tensor, "b labels"]) -> Float[Tensor, ""]:
    """Return the cross-entropies of ground, sky and objects, plus the square error of the area shares."""
    (ground, sky, objects, shares), truths = predicted.split(LABEL_COUNTS, 1), truth.split(LABEL_COUNTS, 1)
    # A scene has two or three of 42 objects: the mean over all of them would hardly train the network.
    presence = F.binary_cross_entropy_with_logits(objects, truths[2], reduction="none").sum(1).mean()
    classes = F.cross_entropy(ground, truths[0]) + F.cross_entropy(sky, truths[1])
    return classes + presence + 10 * F.mse_loss(shares, truths[3])


def load_network(directory: Path) -> ResNet:
    """Return the saved network, loaded with timm."""
    return timm.create_model(f"local-dir:{directory}", pretrained=True).float().eval()


@torch.no_grad()
def extract_features(
    network: ResNet, images: UInt8[np.ndarray, "n H W 3"]
) -> tuple[Float32[np.ndarray, "n c"], Float32[np.ndarray, "n labels"]]:
    """Return the pooled vector of each image, and the network's outputs."""
    batches = [network.forward_features(to_pixels(batch)) for batch in split_batches(images)]
    vectors = torch.cat([network.forward_head(x, pre_logits=True) for x in batches])
    return vectors.numpy(), network.get_classifier()(vectors).numpy()


def average_precision(score: Float[np.ndarray, " n"], truth: Shaped[np.ndarray, " n"]) -> float:
    """Return the mean precision at the rank of each positive image."""
    positive = truth[np.argsort(-score, kind="stable")] > 0
    precision = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    return float(precision[positive].mean())


def degrade(images: UInt8[np.ndarray, "n H W 3"], kind: str, level: int) -> UInt8[np.ndarray, "n H W 3"]:
    """Return images with `level` times 8 in 255 of "noise", or with `level` times a "blur" of three pixels."""
    x = images.astype(np.float32)
    if kind == "noise":
        x += np.random.RandomState(0).standard_normal(x.shape).astype(np.float32) * 8 * level
    else:
        for axis in [1, 2] * level:
            length = x.shape[axis]
            near = [np.take(x, np.clip(np.arange(length) + step, 0, length - 1), axis) for step in (-1, 1)]
            x = 0.5 * x + 0.25 * (near[0] + near[1])
    return x.round().clip(0, 255).astype(np.uint8)


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return the accuracy of the outputs on held-out scenes, and Fréchet distances of degraded images.

    "degradation levels in order" is the share of neighbouring levels of blur and noise whose distances increase.
    """
    scenes = render_dataset(work, split, count, SIZE)
    network, truth = load_network(directory), scene_labels(scenes).numpy()
    vectors, outputs = extract_features(network, scenes.image)
    predicted, truths = (np.split(x, np.cumsum(LABEL_COUNTS)[:-1], 1) for x in (outputs, truth))
    precision = [average_precision(p, t) for p, t in zip(predicted[2].T, truths[2].T, strict=True) if t.any()]
    accuracy = [float((p.argmax(1) == t.argmax(1)).mean()) for p, t in zip(predicted[:2], truths[:2], strict=True)]
    names = ("accuracy of ground", "accuracy of sky", "mean average precision of objects", "error of area shares")
    error = float(np.abs(predicted[3] ** 2 - truths[3] ** 2).mean())
    metrics = dict(zip(names, (*accuracy, float(np.mean(precision)), error), strict=True))
    return metrics | degradation_distances(network, scenes.image, vectors)


def degradation_distances(
    network: ResNet, images: UInt8[np.ndarray, "n H W 3"], vectors: Float32[np.ndarray, "n c"]
) -> dict[str, float]:
    """Return Fréchet distances between images and their degraded versions, and whether they grow with the level.

    Args:
        vectors: Features of the images.
    """
    metrics, increases = {}, []
    for kind in ("blur", "noise"):
        degraded = [torch.from_numpy(extract_features(network, degrade(images, kind, level))[0]) for level in range(5)]
        distances = [float(frechet_distance(torch.from_numpy(vectors), features)) for features in degraded]
        increases += [low < high for low, high in pairwise(distances)]
        metrics |= {f"Fréchet distance, {kind} {level}": distances[level] for level in (1, 4)}
    return {**metrics, "degradation levels in order": float(np.mean(increases))}


def train(
    out: Path, work: Path, steps: int = 3_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 3e-3,
) -> dict:  # fmt: skip
    """Train the network, save it to out and evaluate what was saved. Return the rows of the model card."""
    scenes = render_dataset(work, "train", images, SIZE)
    truth = scene_labels(scenes)
    torch.manual_seed(seed)
    network = build_network().to(memory_format=torch.channels_last)
    training = ResumableTraining(work / f"features-{seed}.pt", steps, batch, rate, minutes, seed)

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,))
        (image,) = flip(torch.rand(batch) < 0.5, to_pixels(scenes.image[index.numpy()]))
        return content_loss(network(blur_and_noise(image.to(DEVICE))), truth[index].to(DEVICE))

    metrics = training.run(network, batch_loss)
    save_network(out, network)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"features {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [network], metrics, TRAINING_NOTES)
    return metrics


def save_network(out: Path, network: ResNet) -> None:
    """Write a timm directory in half precision."""
    pretrained = {"input_size": (3, SIZE, SIZE), "mean": MEAN, "std": STD, "crop_pct": 1.0}
    config = {"pretrained_cfg": pretrained, "label_names": list(LABELS)}
    save_for_hf(network.half().to(memory_format=torch.contiguous_format), str(out), config, safe_serialization=True)
