"""Input of training steps at 512 px, in one process: latents and layouts from the cache instead of decoded files.

The operating system has the files in memory; a cold disk is limited by the 0.12 MB of an image.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from lumen.core.registry import datamodules
from lumen.data.cache import CachedArray, CacheStore, shard_ranges
from lumen.data.datamodule import DataModule
from lumen.data.loader import Loader
from lumen.data.source import LoaderConfig
from lumen.diffusion.loading import load
from lumen.diffusion.stable_diffusion import StableDiffusion

PEER = "PIL and torchvision as in train_controlnet.py: a JPEG and a PNG per image, in the main process"
LIBRARIES = ("pillow", "torch", "torchvision")
ROUNDS = 7
TOLERANCE = 0.0  # both yield the same images with the same captions in the same order
TARGET_SPEEDUP = 300
DIRECTORIES = (("images", "jpg", "RGB"), ("stuffthingmaps", "png", "L"))


def inputs(small: bool = False) -> tuple:
    """Return a data set of smooth noise and its cache: moments at 64 x 64, 20 components at 37 x 37, in float16."""
    images, batches = (4, 1) if small else (16, 8)
    directory = tempfile.TemporaryDirectory()
    root, random = Path(directory.name), np.random.default_rng(0)
    for split in ("train", "val"):
        _write_split(root, split, images, random)
    loader_config = LoaderConfig(size=512, batch_size=8, num_batches=batches)
    data = DataModule(datamodules.build("coco_stuff", root=str(root), loader_config=loader_config))
    arrays = {}
    for name, shape in {"moments": (8, 64, 64), "layout": (20, 37, 37)}.items():
        store = CacheStore(root / "cache", name, {})
        for view in range(2):
            content = random.standard_normal((images, *shape)).astype(np.float16)
            store.write(str(view), content, {"captions": [()] * images})
        arrays[name] = CachedArray(store, [[str(view)] * len(shard_ranges(images)) for view in range(2)])
    dataset = data.dataset("train")
    data.cached_dataset = data.from_cache(arrays, needs_images=False)
    return data.train_dataloader(), dataset, load("none", "tiny"), directory


def _write_split(root: Path, split: str, images: int, random: np.random.Generator) -> None:
    for kind, suffix, mode in DIRECTORIES:
        (root / kind / f"{split}2017").mkdir(parents=True)
        for number in range(images):
            noise = random.integers(0, 255, (60, 80, 3) if mode == "RGB" else (60, 80)).astype(np.uint8)
            image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
            image.save(root / kind / f"{split}2017/{number:012}.{suffix}", quality=90)
    entries = [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(images)]
    captions = [{"image_id": n, "caption": f"picture {n}, {k}"} for n in range(images) for k in range(5)]
    (root / "annotations").mkdir(exist_ok=True)
    content = json.dumps({"images": entries, "annotations": captions})
    (root / f"annotations/captions_{split}2017.json").write_text(content, encoding="utf-8")


def peer(loader: Loader, dataset, base: StableDiffusion, directory) -> torch.Tensor:
    """Return the captions in the order of decoded batches."""
    resize = transforms.Resize(512, interpolation=transforms.InterpolationMode.BILINEAR)
    to_hint = transforms.Compose([resize, transforms.CenterCrop(512), transforms.ToTensor()])
    to_image = transforms.Compose([to_hint, transforms.Normalize([0.5], [0.5])])
    captions, batch = [], []
    for index, epoch in loader.sampler:
        record = dataset.records[index]
        image = to_image(Image.open(record.files["image"]).convert("RGB"))
        hint = to_hint(Image.open(record.files["mask"]).convert("RGB"))
        caption = dataset.choose_view(record, epoch, record.captions)[0]
        base.tokenizer(caption, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
        batch.append((image, hint))
        if len(batch) == loader.batch_size:
            for tensors in zip(*batch, strict=True):
                torch.stack(tensors).to(memory_format=torch.contiguous_format).float()
            batch = []
        captions.append(caption)
    return parse_captions(captions)


def ours(loader: Loader, dataset, base: StableDiffusion, directory) -> torch.Tensor:
    """Return the captions in the order of cached batches."""
    captions = []
    for batch in loader:
        base.token_ids(batch.caption)
        captions += batch.caption
    return parse_captions(captions)


def parse_captions(captions: list[str]) -> torch.Tensor:
    """Return the two numbers in each caption: the image, and the number of the caption."""
    return torch.tensor([[int(n) for n in caption.removeprefix("picture ").split(", ")] for caption in captions])
