"""The network whose features compare pictures: a small ResNet that has learnt to say what is in a scene."""

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

from lumen.evaluation.metrics.fid import frechet
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.recipes.augmentations import MEAN, STD, flipped, softened
from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import Drawn, drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, pixels
from lumen.scenes.world import CLASSES, GROUNDS, SKIES

THINGS = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
LABELS = (*GROUNDS, *SKIES, *THINGS, *(f"share of {name}" for name in CLASSES))
"""One number each: a logit for the ground, the sky and each thing that may be there; the square root of a share."""
PARTS = [len(GROUNDS), len(SKIES), len(THINGS), len(CLASSES)]
CHANNELS = (32, 64, 128, 192)
LEARNT = """\
What was learnt: ground and sky are known within 10,000 images. Which colour belongs to which kind takes longer: mean
average precision was 0.26 in a trial of 10,000 and is 0.99 after 96,000. The Fréchet distance grows with blur and with
noise at every level tried, but far faster with noise that is stronger than what it was shown (10 in 255 at most).
"""


def untrained() -> ResNet:
    """timm's smallest ResNet, narrower; a vector of 192 and stages of 1/2 to 1/32 of the image."""
    return timm.create_model("resnet10t", pretrained=False, num_classes=len(LABELS), channels=CHANNELS, stem_width=24)


def labels(scenes: Drawn) -> Float[Tensor, "n labels"]:
    """What is in each scene, in the order of `LABELS`."""
    rows = np.zeros((len(scenes.graphs), len(LABELS)), np.float32)
    place = {name: i for i, name in enumerate(LABELS)}
    for row, graph, semantic in zip(rows, scenes.graphs, scenes.semantic, strict=True):
        names = [graph["ground"], graph["sky"], *(f"{t['colour']} {t['kind']}" for t in graph["objects"])]
        row[[place[name] for name in names]] = 1
        row[-len(CLASSES) :] = np.sqrt(np.bincount(semantic.ravel(), minlength=len(CLASSES)) / semantic.size)
    return torch.tensor(rows)


def loss(found: Float[Tensor, "b labels"], truth: Float[Tensor, "b labels"]) -> Float[Tensor, ""]:
    """Cross-entropies of ground, sky and things, the square error of the shares."""
    (ground, sky, things, shares), true = found.split(PARTS, 1), truth.split(PARTS, 1)
    # a scene has two or three of 42 things: the mean over all of them would hardly move the network
    present = F.binary_cross_entropy_with_logits(things, true[2], reduction="none").sum(1).mean()
    return F.cross_entropy(ground, true[0]) + F.cross_entropy(sky, true[1]) + present + 10 * F.mse_loss(shares, true[3])


def network_of(folder: Path) -> ResNet:
    """The saved network, loaded like any other of timm."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).float().eval()


@torch.no_grad()
def seen(
    network: ResNet, images: UInt8[np.ndarray, "n H W 3"]
) -> tuple[Float32[np.ndarray, "n c"], Float32[np.ndarray, "n labels"]]:
    """The pooled vector of each image, and what the network says is there."""
    batches = [network.forward_features(pixels(some)) for some in np.array_split(images, math.ceil(len(images) / 64))]
    vectors = torch.cat([network.forward_head(x, pre_logits=True) for x in batches])
    return vectors.numpy(), network.get_classifier()(vectors).numpy()


def average_precision(score: Float[np.ndarray, " n"], truth: Shaped[np.ndarray, " n"]) -> float:
    """Mean precision at the rank of each image in which it is really there."""
    there = truth[np.argsort(-score, kind="stable")] > 0
    precision = np.cumsum(there) / np.arange(1, len(there) + 1)
    return float(precision[there].mean())


def spoilt(images: UInt8[np.ndarray, "n H W 3"], kind: str, level: int) -> UInt8[np.ndarray, "n H W 3"]:
    """`level` times 8 in 255 of noise, or `level` times a blur of three pixels."""
    x = images.astype(np.float32)
    if kind == "noise":
        x += np.random.RandomState(0).standard_normal(x.shape).astype(np.float32) * 8 * level
    else:
        for axis in [1, 2] * level:
            last = x.shape[axis]
            near = [np.take(x, np.clip(np.arange(last) + step, 0, last - 1), axis) for step in (-1, 1)]
            x = 0.5 * x + 0.25 * (near[0] + near[1])
    return x.round().clip(0, 255).astype(np.uint8)


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """What the saved network knows of scenes it has not seen, and whether worse pictures are further from good ones.

    "worse is further" is the share of neighbouring levels of blur and of noise that the Fréchet distance puts in order.
    """
    scenes = drawn(work, split, count, SIZE)
    network, truth = network_of(folder), labels(scenes).numpy()
    vectors, said = seen(network, scenes.image)
    found, true = (np.split(x, np.cumsum(PARTS)[:-1], 1) for x in (said, truth))
    precisions = [average_precision(f, t) for f, t in zip(found[2].T, true[2].T, strict=True) if t.any()]
    right = [float((f.argmax(1) == t.argmax(1)).mean()) for f, t in zip(found[:2], true[:2], strict=True)]
    names = ("accuracy of ground", "accuracy of sky", "mean average precision of things", "error of shares")
    error = float(np.abs(found[3] ** 2 - true[3] ** 2).mean())
    figures = dict(zip(names, (*right, float(np.mean(precisions)), error), strict=True))
    ordered = []
    for kind in ("blur", "noise"):
        looks = [torch.from_numpy(seen(network, spoilt(scenes.image, kind, level))[0]) for level in range(5)]
        levels = [float(frechet(torch.from_numpy(vectors), look)) for look in looks]
        ordered += [low < high for low, high in pairwise(levels)]
        figures |= {f"Fréchet distance, {kind} {level}": levels[level] for level in (1, 4)}
    return {**figures, "worse is further": float(np.mean(ordered))}


def train(
    out: Path, work: Path, steps: int = 3_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 3e-3,
) -> dict:  # fmt: skip
    """Draws, trains, saves to out and measures what was saved; the figures are those of the card."""
    scenes = drawn(work, "train", images, SIZE)
    truth = labels(scenes)
    torch.manual_seed(seed)
    network = untrained().to(memory_format=torch.channels_last)
    course = Course(work / f"features-{seed}.pt", steps, batch, rate, minutes, seed)

    def of_batch() -> Tensor:
        some = torch.randint(images, (batch,))
        (image,) = flipped(torch.rand(batch) < 0.5, pixels(scenes.image[some.numpy()]))
        return loss(network(softened(image.to(DEVICE))), truth[some].to(DEVICE))

    figures = course.train(network, of_batch)
    save(out, network)
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    card(out, __doc__, f"features {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}", [network], figures, LEARNT)
    return figures


def save(out: Path, network: ResNet) -> None:
    """timm's own layout, in half precision."""
    described = {"input_size": (3, SIZE, SIZE), "mean": MEAN, "std": STD, "crop_pct": 1.0}
    config = {"pretrained_cfg": described, "label_names": list(LABELS)}
    save_for_hf(network.half().to(memory_format=torch.contiguous_format), str(out), config, safe_serialization=True)
