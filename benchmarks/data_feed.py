"""What a training step at 512 px is fed, in one process: latents and layouts from the cache, instead of files decoded.

The cache is warm: a cold disk gives what it can of the 0.12 MB of an image.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from lumen.core.registry import datamodules
from lumen.data.cache import Rows, Shelf, groups
from lumen.data.datamodule import Loading
from lumen.data.loader import Loader
from lumen.diffusion.stable_diffusion import Pipeline, load

PEER = "PIL and torchvision as in train_controlnet.py: a JPEG and a PNG per image, in the main process"
LIBRARIES = ("pillow", "torch", "torchvision")
ROUNDS = 7
APART = 0.0  # both bring the same images under the same captions, in the same order
TARGET = 300
FOLDERS = (("images", "jpg", "RGB"), ("stuffthingmaps", "png", "L"))


def inputs(small: bool = False) -> tuple:
    """A data set of smooth noise and a cache of it: moments at 64 x 64, 20 components at 37 x 37, in float16."""
    images, batches = (4, 1) if small else (16, 8)
    folder = tempfile.TemporaryDirectory()
    root, random = Path(folder.name), np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, ending, mode in FOLDERS:
            (root / kind / f"{split}2017").mkdir(parents=True)
            for number in range(images):
                small_one = random.integers(0, 255, (60, 80, 3) if mode == "RGB" else (60, 80)).astype(np.uint8)
                picture = Image.fromarray(small_one).resize((640, 480), Image.Resampling.BICUBIC)
                picture.save(root / kind / f"{split}2017/{number:012}.{ending}", quality=90)
        known = [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(images)]
        said = [{"image_id": n, "caption": f"picture {n}, {k}"} for n in range(images) for k in range(5)]
        (root / "annotations").mkdir(exist_ok=True)
        content = json.dumps({"images": known, "annotations": said})
        (root / f"annotations/captions_{split}2017.json").write_text(content)
    loading = Loading(size=512, batch=8, batches=batches)
    data = datamodules.build("coco_stuff", root=str(root), loading=loading)
    rows = {}
    for name, shape in {"moments": (8, 64, 64), "layout": (20, 37, 37)}.items():
        shelf = Shelf(root / "cache", name, {})
        for look in range(2):
            content = random.standard_normal((images, *shape)).astype(np.float16)
            shelf.write(str(look), content, {"captions": [()] * images})
        rows[name] = Rows(shelf, [[str(look)] * len(groups(images)) for look in range(2)])
    plain = data.dataset("train")
    data.kept = data.from_cache(rows)
    return data.train_dataloader(), plain, load("none", "tiny"), folder


def peer(loader: Loader, plain, pipeline: Pipeline, folder) -> torch.Tensor:
    resize = transforms.Resize(512, interpolation=transforms.InterpolationMode.BILINEAR)
    square = [resize, transforms.CenterCrop(512), transforms.ToTensor()]
    of_image = transforms.Compose([*square, transforms.Normalize([0.5], [0.5])])
    of_hint, seen, batch = transforms.Compose(square), [], []
    for index, epoch in loader.sampler:
        record = plain.records[index]
        image = of_image(Image.open(record.files["image"]).convert("RGB"))
        hint = of_hint(Image.open(record.files["mask"]).convert("RGB"))
        said = plain.drawn(index, epoch, record.captions)[0]
        pipeline.tokenizer(said, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
        batch.append((image, hint))
        if len(batch) == loader.batch_size:
            for parts in zip(*batch, strict=True):
                torch.stack(parts).to(memory_format=torch.contiguous_format).float()
            batch = []
        seen.append(said)
    return numbers(seen)


def ours(loader: Loader, plain, pipeline: Pipeline, folder) -> torch.Tensor:
    seen = []
    for batch in loader:
        pipeline.ids(batch.caption)
        seen += batch.caption
    return numbers(seen)


def numbers(captions: list[str]) -> torch.Tensor:
    """The two numbers in each caption: which image, and which of its captions."""
    return torch.tensor([[int(n) for n in said.removeprefix("picture ").split(", ")] for said in captions])
