"""Linear probe of a frozen backbone: mean IoU in pixels of a linear classifier of its cells."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lumen.core.interfaces import Backbone
from lumen.core.registry import backbones
from lumen.core.resize import resize
from lumen.evaluation import probe_dataset
from lumen.evaluation.linear_probe import fit_classifier
from lumen.features.pretrained import resolve_weights
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.segmenter import confusion_matrix, mean_iou
from lumen.scenes.recipes.vae import SIZE, split_batches, to_pixels
from lumen.scenes.world import CLASSES

NUM_TRAIN_SCENES = 2048

Features = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b c h w"]]


def evaluate(
    name: str, work: Path, split: str = "test", weights: str = "scenes", count: int = 512, **arguments
) -> dict[str, float]:
    """Return the probe of a backbone, that of the same network before training, and their difference.

    Args:
        name: Name of the backbone.
        arguments: Arguments of the backbone, such as its layer.
    """
    backbone = backbones.build(name, weights=weights, **arguments)
    trained = probe_miou(backbone, work, split, count)
    untrained = probe_miou(reinitialize(name, backbone, weights), work, split, count)
    return {"probe mIoU": trained, "untrained": untrained, "gain": trained - untrained}


def probe_miou(backbone: Backbone, work: Path, split: str = "test", count: int = 512) -> float:
    """Return the mean IoU in pixels, over `count` scenes of a split, of a classifier fitted on cells of train scenes.

    It is fitted on the first `NUM_TRAIN_SCENES` of the largest train set in `work`, so a recipe's own scenes serve.
    """
    counts = [int(words.parent.name.split("-")[1]) for words in work.glob(f"train-*-{SIZE}/words.json")]
    train_scenes = render_dataset(work, "train", max([NUM_TRAIN_SCENES, *counts]), SIZE)
    scenes = render_dataset(work, split, count, SIZE)
    x = _extract_features(backbone.features, train_scenes)
    classify = fit_cell_classifier(x, class_shares(train_scenes.semantic[:NUM_TRAIN_SCENES], x.shape[-2:]))
    return pixel_miou(classify(_extract_features(backbone.features, scenes)), scenes.semantic)


def grid_ceiling(work: Path, cells: int = 8, split: str = "test", count: int = 512) -> float:
    """Return the mean IoU of the true class shares on a grid of cells x cells: the most that the grid allows."""
    truth = render_dataset(work, split, count, SIZE).semantic
    return pixel_miou(class_shares(truth, (cells, cells)), truth)


@torch.no_grad()
def reinitialize(name: str, backbone: Backbone, weights: str = "scenes") -> Backbone:
    """Return a copy of a backbone with the network as before training; of `sd`, the U-Net alone."""
    path = resolve_weights(weights, name, None, None, [])
    twin = deepcopy(backbone)  # networks may be shared
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        match name:
            case "sd":
                twin.unet = type(backbone.unet).from_config(backbone.unet.config)
            case "clip":
                twin.net = open_clip.create_model(f"local-dir:{path}", load_weights=False).visual
            case "dino" | "dinov2":
                twin.net = timm.create_model(f"local-dir:{path}", num_classes=0, dynamic_img_size=True)
    return twin.freeze()


def class_shares(semantic: UInt8[np.ndarray, "n H W"], grid: tuple[int, int]) -> Float[Tensor, "n k h w"]:
    """Return the share of every class in every cell."""
    batches = [torch.tensor(batch).long() for batch in split_batches(semantic)]
    return torch.cat([probe_dataset.class_shares(batch, grid, len(CLASSES))[:, :-1] for batch in batches])


def fit_cell_classifier(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n k h w"]
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]]:
    """Return a linear classifier of cells, as a function from features to logits.

    Args:
        x: Features of the cells.
        y: Shares of the classes in the cells.
    """
    classify = fit_classifier(_flatten_cells(x), _flatten_cells(y))
    return lambda maps: classify(_flatten_cells(maps)).unflatten(0, (len(maps), *maps.shape[-2:])).permute(0, 3, 1, 2)


def pixel_miou(logits: Float[Tensor, "n k h w"], semantic: UInt8[np.ndarray, "n H W"]) -> float:
    """Return the mean IoU over all pixels of all scenes, with the logits resized to the images."""
    labels = [resize(batch, semantic.shape[1:]).argmax(1).byte() for batch in logits.split(64)]
    return mean_iou(confusion_matrix(semantic, torch.cat(labels).numpy()))


@torch.no_grad()
def _extract_features(features: Features, scenes: RenderedScenes) -> Float[Tensor, "n c h w"]:
    """Return the features of the first `NUM_TRAIN_SCENES` scenes at most."""
    batches = split_batches(scenes.image[:NUM_TRAIN_SCENES])
    return torch.cat([features(to_pixels(batch)) for batch in batches])


def _flatten_cells(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "cells c"]:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
