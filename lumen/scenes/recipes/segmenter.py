"""Segmenter of the offline world: a small SegFormer (Xie et al. 2021, arXiv:2105.15203) with its 11 classes."""

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

from lumen.scenes.recipes.augmentations import MEAN, STD, blur_and_noise, flip, reconstruct
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.precision import save_half
from lumen.scenes.recipes.rendered_dataset import render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels
from lumen.scenes.world import CLASSES

WIDTHS, DEPTHS = (24, 48, 80, 112), (1, 2, 2, 2)
TRAINING_NOTES = """\
Training notes: the loss was 0.55 after 280 steps, 0.14 after 800 and 0.06 after 1,800, where it nearly stopped falling.
Nine of ten wrong pixels are at a true boundary. A logit covers two pixels; a first stride of one would take 2.5 times
as long. On val seeds the IoU of objects is 0.89 (car) to 0.92 (house), that of ground and sky 0.96 to 0.98. After the
autoencoder objects lose 0.05 to 0.10, cars and boxes most, although half of the training images were blurred and noisy.
The training had no round trips through the autoencoder, so its output is new to the segmenter.
"""


def build_network(widths: tuple[int, ...] = WIDTHS) -> SegformerForSemanticSegmentation:
    """Return the untrained SegFormer."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=list(widths), depths=list(DEPTHS), strides=[2, 2, 2, 2], patch_sizes=[5, 3, 3, 3],
            sr_ratios=[4, 2, 1, 1], num_attention_heads=[1, 2, 4, 4], mlp_ratios=[3, 3, 3, 3], decoder_hidden_size=64,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0, drop_path_rate=0.0,
            id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
        )
    )  # fmt: skip


def build_processor() -> SegformerImageProcessor:
    """Return the image processor that is saved with the network."""
    size = {"height": SIZE, "width": SIZE}
    return SegformerImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD), do_reduce_labels=False)


def pixel_logits(
    network: SegformerForSemanticSegmentation, image: Float[Tensor, "b 3 H W"]
) -> Float[Tensor, "b 11 H W"]:
    """Return the logits resized to the image; the network's own have half of its size."""
    return F.interpolate(network(image).logits, image.shape[2:], mode="bilinear", align_corners=False)


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: int = len(CLASSES)
) -> Int[np.ndarray, "classes classes"]:
    """Return the number of pixels by true class (rows) and predicted class (columns)."""
    pairs = truth.astype(np.int64).ravel() * classes + predicted.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: Int[np.ndarray, "classes classes"]) -> float:
    """Return the mean intersection over union of a whole data set, over the classes in truth or prediction."""
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


@torch.no_grad()
def segment(directory: Path, images: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W"]:
    """Return class ids by the network of a directory, loaded with transformers."""
    network = AutoModelForSemanticSegmentation.from_pretrained(directory, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(directory)
    labels = []
    for batch in split_batches(images):
        pixels = processor(list(batch), return_tensors="pt").pixel_values
        labels.append(pixel_logits(network, pixels).argmax(1).byte().numpy())
    return np.concatenate(labels)


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return the dataset-level mIoU of the saved network on held-out scenes and on their autoencoder round trips."""
    scenes = render_dataset(work, split, count, SIZE)
    plain = mean_iou(confusion_matrix(scenes.semantic, segment(directory, scenes.image)))
    round_trip = mean_iou(confusion_matrix(scenes.semantic, segment(directory, reconstruct(scenes.image))))
    return {"mIoU": plain, "mIoU after the autoencoder": round_trip, "mIoU retained": round_trip / plain}


def train(
    out: Path, work: Path, steps: int = 2_200, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 2e-3,
) -> dict:  # fmt: skip
    """Train the network, save it to out and evaluate what was saved. Return the rows of the model card."""
    scenes = render_dataset(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = build_network().to(memory_format=torch.channels_last)
    training = ResumableTraining(work / f"segmenter-{seed}.pt", steps, batch, rate, minutes, seed)

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(scenes.semantic[index]).long()
        image, truth = flip(torch.rand(batch) < 0.5, to_pixels(scenes.image[index]), truth)
        return F.cross_entropy(pixel_logits(network, blur_and_noise(image.to(DEVICE))), truth.to(DEVICE))

    metrics = training.run(network, batch_loss)
    save_half(network, out)
    build_processor().save_pretrained(out)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"segmenter {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [network], metrics, TRAINING_NOTES)
    return metrics
