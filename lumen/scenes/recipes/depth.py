"""Depth estimator for evaluation: a small GLPN (Kim et al. 2022, arXiv:2201.07436), metres along the optical axis."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    DPTImageProcessor,
    GLPNConfig,
    GLPNForDepthEstimation,
)

from lumen.core.errors import WeightsMissing
from lumen.scenes.recipes import segmenter
from lumen.scenes.recipes.augmentations import MEAN, STD, blur_and_noise, flip, reconstruct
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.precision import save_half
from lumen.scenes.recipes.rendered_dataset import render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels

MAX_DEPTH_M = 80
"""Depth in metres of the sky and of all ground beyond."""
TRAINING_NOTES = """\
Training notes: from random weights 1,400 steps end at an error of 14.5. From the segmenter's encoder 470 steps reach
the same loss, and 1,400 end at 10.7. Three quarters of the remaining error (val seeds) lie within a pixel of a
boundary, where a sixth of the pixels are: from sky or ground to an object the depth has a large step, and the network
must choose a side for mixed pixels. Inside objects the error is 9, on open ground 4. The prediction has twice the
image's size and is downscaled by bicubic interpolation; trained through that interpolation it never came near zero. The
prediction for the sky is 80 m.
"""


def build_config() -> GLPNConfig:
    """Return a config whose encoder has the shape of the segmenter's, so it can start from the same weights."""
    return GLPNConfig(
        hidden_sizes=list(segmenter.WIDTHS), depths=list(segmenter.DEPTHS), strides=[2, 2, 2, 2],
        patch_sizes=[5, 3, 3, 3], sr_ratios=[4, 2, 1, 1], num_attention_heads=[1, 2, 4, 4], mlp_ratios=[3, 3, 3, 3],
        decoder_hidden_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0,
        max_depth=MAX_DEPTH_M,
    )  # fmt: skip


def initialize_from_segmenter(directory: Path) -> GLPNForDepthEstimation:
    """Return a network with the encoder of the segmenter in a directory, which knows object boundaries.

    Raises:
        WeightsMissing: There is no segmenter.
    """
    if not directory.is_dir():
        raise WeightsMissing(f"recipe depth: {directory} does not exist; run the recipe segmenter first.")
    # In files both encoders have the same names, in memory each its own: transformers translates them.
    weights = load_file(directory / "model.safetensors")
    encoder = {name.replace("segformer.", "glpn."): x.float() for name, x in weights.items() if "segformer." in name}
    return GLPNForDepthEstimation.from_pretrained(None, config=build_config(), state_dict=encoder, dtype=torch.float32)


def build_processor() -> DPTImageProcessor:
    """Return an image processor that also normalises by mean and deviation, which GLPN's own does not."""
    size = {"height": SIZE, "width": SIZE}
    return DPTImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD))


def resize_prediction(depth: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b H W"]:
    """Return the prediction at the size of the image, as `post_process_depth_estimation` resizes it.

    GLPN predicts at twice that size here. Bicubic interpolation overshoots, between sky and a near object even below
    zero, so the network is trained on the result of the interpolation.
    """
    return F.interpolate(depth[:, None], size, mode="bicubic", align_corners=False)[:, 0]


def safe_log(depth: Float[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
    """Return the logarithm, and its tangent below 1 m, which has a gradient even below zero. No object is so near."""
    return torch.where(depth > 1, depth.clamp(min=1).log(), depth - 1)


def depth_loss(predicted: Float[Tensor, "b H W"], truth: Float[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Return Eigen's error with a little of the common scale (0.15, as in AdaBins), plus the error of the sky.

    The sky has no depth, but every network predicts one, and later two predictions are compared over all pixels.
    So the network learns to predict its largest depth there.
    """
    ground = truth.isfinite()
    d = safe_log(predicted) - truth.clamp(max=MAX_DEPTH_M).log()
    count = ground.sum((1, 2)).clamp(min=1)
    mean = (d * ground).sum((1, 2)) / count
    square = (d.square() * ground).sum((1, 2)) / count
    return (square - 0.85 * mean.square() + 1e-6).sqrt().mean() + 0.3 * (d.abs() * ~ground).mean()


def si_error(predicted: Float[np.ndarray, "n H W"], truth: Float[np.ndarray, "n H W"]) -> float:
    """Return Eigen's scale-invariant error (2014) in per cent: 100 times the deviation of the log error, image mean.

    Pixels of the sky, and those beyond `MAX_DEPTH_M`, are excluded.
    """
    errors = []
    for p, t in zip(predicted, truth, strict=True):
        near = t < MAX_DEPTH_M
        if near.any():
            # Bicubic overshoot can reach zero, where there is no logarithm.
            errors.append(np.std(np.log(p[near].clip(min=1e-3 * p.mean())) - np.log(t[near])))
    return 100 * float(np.mean(errors))


@torch.no_grad()
def predict_depth(directory: Path, images: UInt8[np.ndarray, "n H W 3"]) -> Float32[np.ndarray, "n H W"]:
    """Return predictions of the network in a directory, loaded with transformers, at the size of the images."""
    network = AutoModelForDepthEstimation.from_pretrained(directory, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(directory)
    depth = []
    for batch in split_batches(images):
        output = network(processor(list(batch), return_tensors="pt").pixel_values)
        results = processor.post_process_depth_estimation(output, [images.shape[1:3]] * len(batch))
        depth += [result["predicted_depth"].numpy() for result in results]
    return np.stack(depth)


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return metrics of the saved network on held-out scenes.

    They are the scale-invariant error before and after the autoencoder, that between the two predictions over all
    pixels, and the predicted depth of the sky.
    """
    scenes = render_dataset(work, split, count, SIZE)
    plain = predict_depth(directory, scenes.image)
    round_trip = predict_depth(directory, reconstruct(scenes.image))
    return {
        "SI": si_error(plain, scenes.depth),
        "SI after the autoencoder": si_error(round_trip, scenes.depth),
        "SI of round trip against scene": si_error(round_trip, plain.clip(0.001 * MAX_DEPTH_M, 0.999 * MAX_DEPTH_M)),
        "median metres in the sky": float(np.median(plain[np.isinf(scenes.depth)])),
    }


def train(
    out: Path, work: Path, steps: int = 1_400, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 1.5e-3,
) -> dict:  # fmt: skip
    """Train the network, save it to out and evaluate what was saved. Return the rows of the model card.

    The segmenter must exist beside `out`.
    """
    scenes = render_dataset(work, "train", images, SIZE)
    torch.manual_seed(seed)
    network = initialize_from_segmenter(out.parent / "segmenter").to(memory_format=torch.channels_last)
    training = ResumableTraining(work / f"depth-{seed}.pt", steps, batch, rate, minutes, seed)

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,)).numpy()
        truth = torch.tensor(scenes.depth[index])
        image, truth = flip(torch.rand(batch) < 0.5, to_pixels(scenes.image[index]), truth)
        predicted = network(blur_and_noise(image.to(DEVICE))).predicted_depth
        return depth_loss(resize_prediction(predicted, truth.shape[1:]), truth.to(DEVICE))

    metrics = training.run(network, batch_loss)
    save_half(network, out)
    build_processor().save_pretrained(out)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"depth {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [network], metrics, TRAINING_NOTES)
    return metrics
