"""Metrics of a label-to-image GAN on held-out scenes: obedience to the label map, and what its noise changes."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8

from lumen.core.interfaces import Batch
from lumen.evaluation.metrics.fid import frechet_distance
from lumen.evaluation.metrics.lpips import Diversity
from lumen.features.oasis import OasisGenerator, load_oasis
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.recipes import features
from lumen.scenes.recipes.augmentations import AUTOENCODER, reconstruct
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.segmenter import confusion_matrix, mean_iou, segment
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels
from lumen.scenes.world import CLASSES, GROUNDS, SKIES

SCENES, NOISES = 64, 32  # of which the effect of the noise is counted
# The gate: shares of what round trips reach and of what real scenes have, and values that noises reach.
MIN_MIOU_SHARE, MIN_LPIPS_SHARE, MIN_SKIES, MIN_COLOURS = 0.85, 0.5, 4, 5
SEGMENTER, FEATURES = SCENES_WEIGHTS / "segmenter", SCENES_WEIGHTS / "features"


@torch.no_grad()
def generate(
    generator: OasisGenerator, vae: AutoencoderKL, labels: UInt8[np.ndarray, "n H W"], seed: int = 0
) -> UInt8[np.ndarray, "n H W 3"]:
    """Return an image of each label map, with random noise of each class."""
    config, random = generator.config, torch.Generator().manual_seed(seed)
    images = []
    for batch in split_batches(labels):
        z = torch.randn(len(batch), len(config.classes), config.noise, generator=random)
        latents = generator.generate(torch.tensor(batch).long(), z)
        images.append(vae.decode(latents / vae.config.scaling_factor).sample)
    return ((torch.cat(images).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return mIoU, Fréchet distance, `noise_metrics`, and whether all are good enough to ship a saved generator."""
    generator = load_oasis(str(directory))
    vae = AutoencoderKL.from_pretrained(AUTOENCODER, torch_dtype=torch.float32).eval()
    scenes = render_dataset(work, split, count, SIZE)
    images = generate(generator, vae, scenes.semantic)
    miou, ceiling = (
        mean_iou(confusion_matrix(scenes.semantic, segment(SEGMENTER, pictures)))
        for pictures in (images, reconstruct(scenes.image))
    )
    network = features.load_network(FEATURES)
    vectors = [torch.from_numpy(features.extract_features(network, x)[0]) for x in (scenes.image, images)]
    metrics = {"mIoU": miou, "mIoU of round trips": ceiling, "share of it": miou / ceiling}
    metrics["Fréchet distance"] = float(frechet_distance(*vectors))
    first = RenderedScenes(**{name: value[:SCENES] for name, value in vars(scenes).items()})
    samples = np.stack([generate(generator, vae, first.semantic, seed) for seed in range(NOISES)], 1)
    metrics |= noise_metrics(samples, first, scenes)
    reached = [sum(value for name, value in metrics.items() if name.startswith(kind)) for kind in ("skies", "colours")]
    is_obedient, is_diverse = metrics["share of it"] >= MIN_MIOU_SHARE, metrics["share of LPIPS"] >= MIN_LPIPS_SHARE
    is_met = is_obedient and is_diverse and reached[0] >= MIN_SKIES and reached[1] >= MIN_COLOURS
    return metrics | {"gate met": float(is_met)}


def noise_metrics(
    samples: UInt8[np.ndarray, "n noises H W 3"], scenes: RenderedScenes, others: RenderedScenes
) -> dict[str, float]:
    """Return the effect of the noise on the samples of some scenes, beside the variety of others.

    Skies and colours are those that the feature network sees among the samples of a scene: the median over scenes, and
    over their objects. A deviation is that of the mean colour of a class, over the noises of a scene or over scenes.
    """
    network = features.load_network(FEATURES)
    outputs = features.extract_features(network, samples.reshape(-1, SIZE, SIZE, 3))[1]
    outputs = outputs.reshape(*samples.shape[:2], -1)
    skies, objects = (np.split(outputs, np.cumsum(features.LABEL_COUNTS)[:-1], -1)[i] for i in (1, 2))
    colours = objects.reshape(*samples.shape[:2], len(KINDS), len(COLOURS)).argmax(-1)
    of_objects = [
        len(set(colours[i, :, KINDS.index(item["kind"])])) for i, graph in enumerate(scenes.graphs)
        for item in graph["objects"]
    ]  # fmt: skip
    distance, ceiling = lpips_of_noises(samples), lpips_of_scenes(others)
    ratios = colour_deviations(samples, scenes.semantic) / colour_deviations(others.image[None], others.semantic)
    return {
        f"skies over {NOISES} noises, of {len(SKIES)}": float(np.median([len(set(row)) for row in skies.argmax(-1)])),
        f"colours over {NOISES} noises, of {len(COLOURS)}": float(np.median(of_objects)),
        "LPIPS of two noises": distance,
        "LPIPS of two scenes of one ground": ceiling,
        "share of LPIPS": distance / ceiling,
        "colour deviation, share of that of scenes": float(np.nanmean(ratios)),
    }


def lpips_of_noises(samples: UInt8[np.ndarray, "n noises H W 3"]) -> float:
    """Return the mean distance of the first two samples of each scene."""
    return _lpips(samples[:, 0], samples[:, 1])


def lpips_of_scenes(scenes: RenderedScenes) -> float:
    """Return the mean distance of each scene and the next one that has the same ground."""
    grounds = np.array([graph["ground"] for graph in scenes.graphs])
    groups = [np.flatnonzero(grounds == ground) for ground in GROUNDS]
    first, second = (np.concatenate(rows) for rows in zip(*((g[:-1], g[1:]) for g in groups), strict=True))
    return _lpips(scenes.image[first], scenes.image[second])


@torch.no_grad()
def _lpips(first: UInt8[np.ndarray, "n H W 3"], second: UInt8[np.ndarray, "n H W 3"]) -> float:
    metric, distances = Diversity("scenes"), []
    for a, b in zip(split_batches(first), split_batches(second), strict=True):
        pair = torch.stack([to_pixels(a), to_pixels(b)], 1)
        distances.append(metric.per_sample(Batch(pair[:, 0], [""] * len(a), [""] * len(a)), pair)[:, 0, 1])
    return torch.cat(distances).mean().item()


def colour_deviations(
    samples: UInt8[np.ndarray, "n m H W 3"], labels: UInt8[np.ndarray, "_ H W"]
) -> Float[np.ndarray, " c"]:
    """Return the deviation of each class's mean colour, mean over the RGB channels.

    Args:
        labels: Label map of each of n rows of m samples; or, with one row, of each of its samples.
    """
    values = []
    for c in range(len(CLASSES)):
        mask = (labels == c) if len(samples) == 1 else (labels == c)[:, None]
        mask = np.broadcast_to(mask, samples.shape[:-1])
        area = mask.sum((2, 3)).astype(float)
        area[area < 0.02 * SIZE**2] = np.nan
        colour = (samples * mask[..., None]).sum((2, 3)) / area[..., None]
        rows = colour[np.isfinite(area).sum(1) > 1]  # a deviation takes two samples
        values.append(np.nanstd(rows, 1).mean() if len(rows) else np.nan)
    return np.array(values)
