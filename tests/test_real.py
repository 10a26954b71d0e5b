"""The main job on real photos: small untrained networks of the real architectures, and a real autoencoder."""

import json

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import main
from lumen.core.registry import backbones
from lumen.features.pretrained import SCENES_WEIGHTS

SMALL = ["backbone.size=tiny", "backbone.weights=none", "diffusion.weights=none", "diffusion.size=tiny", "size=64"]
SMALL += ["batch=4", "steps=16", "lr=1e-2", "warmup=2", "prompt_dropout=0", "validation=4", "workers=0"]
SMALL += ["sampling.steps=2", "sampling.images=1", "every.log=1", "every.validate=99", "wandb=disabled"]


NAMES = [name for name in backbones.names() if (SCENES_WEIGHTS / name).is_dir()]


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=() if name in ("dinov2", "sd") else pytest.mark.long) for name in NAMES]
)
def test_a_controlnet_learns_on_real_photos(backbone, samples, workdir):
    roots = [f"data.root={samples / 'coco_stuff'}", f"diffusion.vae={samples / 'taesd'}"]
    assert main(["train", "coco_stuff", *roots, f"backbone={backbone}", *SMALL]) == 0
    run = next(workdir.glob("runs/coco_stuff/*/seed0"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert Image.open(run / "grid.png").size[0] > 400


@pytest.mark.parametrize("backbone", NAMES)
def test_layouts_of_real_photos_are_drawn(backbone, samples, workdir):
    photos = sorted((samples / "coco_stuff" / "images" / "val2017").glob("*.jpg"))[:3]
    flags = ["base=scenes", "size=128", f"backbone={backbone}", "conditioning.components=4", "out=picture.png"]
    assert main(["layout", *map(str, photos), *flags]) == 0
    picture = np.asarray(Image.open("picture.png"))
    assert picture.shape[0] > 3 * 160 and picture.std() > 20
