"""Pictures of samples and photos that a run rearranges to match a layout: a label map drawn by hand, or a photo's."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE, Batch, Task
from lumen.core.palette import class_palette
from lumen.core.random import stable_seed
from lumen.core.visualize import make_grid
from lumen.data.readers import read_photo
from lumen.runs.build import build_data
from lumen.runs.photos import Fit, load_photo
from lumen.runs.picture_files import PictureFiles
from lumen.runs.sample import load_task

MAX_COLOURS = 40  # that a message lists


def save_rearrangements(
    run: Path, config: Config, drawing: Path, style: Path | None, count: int, files: PictureFiles, fit: Fit = "stretch"
) -> None:
    """Write a sheet of a layout and of what is rearranged to match it, or each image alone as well.

    Args:
        drawing: Label map of the size of the run's images, if the run learnt from label maps; else a photo.
        style: Photo that is rearranged; None rearranges generated samples.
        count: Number of these samples.

    Raises:
        BadSample: A file cannot be read, or the label map has other classes or another size.
    """
    names = [style.name] if style else [f"sample {number + 1}" for number in range(count)]
    files.verify([str(number) for number in range(len(names))])
    photo = load_photo(style, config.size, fit=fit) if style else None  # before anything is built
    task = load_task(run, config)
    if task.bank.uses_labels:
        mask = read_drawing(drawing, build_data(config).source.classes, config.size)
        batch = Batch(None, [""], [drawing.stem], mask[None])
    else:
        batch = load_photo(drawing, config.size, fit=fit)
    _write(task, batch.to(task.device), photo, config.seed, names, files)


@torch.no_grad()
def _write(task: Task, batch: Batch, photo: Batch | None, seed: int, names: list[str], files: PictureFiles) -> None:
    if photo is not None:
        z = task.generator.invert(photo.image.to(task.device))
    else:
        first = stable_seed(seed, "sample")  # consecutive styles, of which none comes twice before all came
        z = task.bank.style_latents([first + number for number in range(len(names))])
    logits = task.mask_logits(batch)
    images = torch.cat([task.rearrange(latents, logits) for latents in z.split(1)])
    before = task.generator.render(task.generator.features(z))
    layout = task.visualize(batch).expand(len(z), -1, -1, -1) * 2 - 1
    files.save_sheet(make_grid({"image": before, "layout": layout, "rearranged": images}, names, task.legend), {})
    for number, image in enumerate(images):
        files.save_picture(str(number), image, {"style": names[number]})


def read_drawing(path: Path, classes: tuple[str, ...], size: int) -> Int[Tensor, "H W"]:
    """Return the class of each pixel of a label map: of one byte its id, of colours that of the colour.

    Raises:
        BadSample: It has another size, or ids or colours of no class.
    """
    with Image.open(path) if _is_indexed(path) else read_photo(path) as image:
        if image.size != (size, size):
            raise BadSample(
                f"{path} has {image.width} x {image.height} px, and the run's images {size} x {size}; resize it "
                "without smoothing, or draw it in that size."
            )
        pixels = torch.from_numpy(np.array(image)).long()
    return _classes_of_ids(path, pixels, classes) if pixels.ndim == 2 else _classes_of_colours(path, pixels, classes)


def _is_indexed(path: Path) -> bool:
    """Return whether a file is an image of one byte per pixel; what cannot be read is reported by whoever reads it."""
    try:
        with Image.open(path) as image:
            return image.mode in ("L", "P")
    except (OSError, SyntaxError, ValueError):
        return False


def _classes_of_ids(path: Path, ids: Int[Tensor, "H W"], classes: tuple[str, ...]) -> Int[Tensor, "H W"]:
    unknown = ids[(ids >= len(classes)) & (ids != IGNORE)]
    if len(unknown):
        raise BadSample(
            f"{path} holds the class id {int(unknown[0])}, and the data set has ids 0 to {len(classes) - 1}, and "
            f"{IGNORE} for pixels without a class; draw with those."
        )
    return ids


def _classes_of_colours(path: Path, pixels: Int[Tensor, "H W 3"], classes: tuple[str, ...]) -> Int[Tensor, "H W"]:
    palette = (class_palette(len(classes)) * 255).round().long()
    weights = torch.tensor([65536, 256, 1])
    codes, drawing = palette @ weights, pixels @ weights
    order = codes.argsort()
    matched = order[torch.searchsorted(codes[order], drawing).clamp(max=len(codes) - 1)]
    if not bool((wrong := codes[matched] != drawing).any()):
        return torch.where(matched == len(classes), IGNORE, matched)
    row, column = wrong.nonzero()[0].tolist()
    colours = [f"{name} #{int(code):06x}" for name, code in zip([*classes, "no class"], codes, strict=True)]
    listed = ", ".join(colours[:MAX_COLOURS]) + (", ..." if len(colours) > MAX_COLOURS else "")
    raise BadSample(
        f"{path} has the colour #{int(drawing[row, column]):06x} in row {row}, column {column}, which no class has; "
        f"draw with: {listed}."
    )
