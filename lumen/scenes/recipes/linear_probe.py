"""What a frozen backbone knows of the classes of the scenes: a linear classifier of its cells, judged in pixels."""

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
from lumen.evaluation import probe_dataset as cells
from lumen.evaluation.linear_probe import classifier
from lumen.features.pretrained import folder
from lumen.scenes.recipes.rendered_dataset import Drawn, drawn
from lumen.scenes.recipes.segmenter import confusion, miou
from lumen.scenes.recipes.vae import SIZE, pixels
from lumen.scenes.world import CLASSES

SEEN = 2048  # train scenes that the classifier learns from

Features = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b c h w"]]


def measure(
    name: str, work: Path, split: str = "test", weights: str = "scenes", count: int = 512, **arguments
) -> dict[str, float]:
    """The probe of a backbone, of the same network before it learnt anything, and what learning gained.

    `arguments` are the backbone's own, such as its layer.
    """
    learnt = backbones.build(name, weights=weights, **arguments)
    figures = {
        "probe mIoU": probe(learnt, work, split, count),
        "untrained": probe(untrained(name, learnt, weights), work, split, count),
    }
    return figures | {"gain": figures["probe mIoU"] - figures["untrained"]}


def probe(backbone: Backbone, work: Path, split: str = "test", count: int = 512) -> float:
    """Mean IoU in pixels over `count` scenes of a split, of a linear classifier taught on the cells of train scenes.

    Those are the first `SEEN` of what is drawn of train in `work`, so that a recipe's own scenes do.
    """
    there = [int(words.parent.name.split("-")[1]) for words in work.glob(f"train-*-{SIZE}/words.json")]
    taught, asked = drawn(work, "train", max([SEEN, *there]), SIZE), drawn(work, split, count, SIZE)
    x = _seen(backbone.features, taught)
    found = classify(x, shares(taught.semantic[:SEEN], x.shape[-2:]))
    return judged(found(_seen(backbone.features, asked)), asked.semantic)


def ceiling(work: Path, cells: int = 8, split: str = "test", count: int = 512) -> float:
    """What a grid of cells x cells allows: the mean IoU of the true shares of the classes in each cell."""
    truth = drawn(work, split, count, SIZE).semantic
    return judged(shares(truth, (cells, cells)), truth)


@torch.no_grad()
def untrained(name: str, learnt: Backbone, weights: str = "scenes") -> Backbone:
    """A twin of a backbone whose network is as it was before training; of `sd`, the U-Net alone."""
    path = folder(weights, name, None, None, [])
    twin = deepcopy(learnt)  # networks may be shared
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        match name:
            case "sd":
                twin.unet = type(learnt.unet).from_config(learnt.unet.config)
            case "clip":
                twin.net = open_clip.create_model(f"local-dir:{path}", load_weights=False).visual
            case "dino" | "dinov2":
                twin.net = timm.create_model(f"local-dir:{path}", num_classes=0, dynamic_img_size=True)
    return twin.freeze()


def shares(semantic: UInt8[np.ndarray, "n H W"], grid: tuple[int, int]) -> Float[Tensor, "n k h w"]:
    """The share of every class in every cell."""
    some = np.array_split(semantic, -(-len(semantic) // 64))
    return torch.cat([cells.shares(torch.tensor(each).long(), grid, len(CLASSES))[:, :-1] for each in some])


def classify(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n k h w"]
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]]:
    """A linear classifier of cells, taught on the shares of the classes in each; gives logits."""
    found = classifier(_rows(x), _rows(y))
    return lambda maps: found(_rows(maps)).unflatten(0, (len(maps), *maps.shape[-2:])).permute(0, 3, 1, 2)


def judged(logits: Float[Tensor, "n k h w"], semantic: UInt8[np.ndarray, "n H W"]) -> float:
    """Mean IoU over all pixels of all scenes, the logits resized to theirs."""
    found = [resize(some, semantic.shape[1:]).argmax(1).byte() for some in logits.split(64)]
    return miou(confusion(semantic, torch.cat(found).numpy()))


@torch.no_grad()
def _seen(features: Features, scenes: Drawn) -> Float[Tensor, "n c h w"]:
    """Of the first `SEEN` scenes at most."""
    images = scenes.image[:SEEN]
    batches = np.array_split(images, -(-len(images) // 64))
    return torch.cat([features(pixels(some)) for some in batches])


def _rows(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "cells c"]:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
