"""Sheets of edits: one class of an image along the directions of a run."""

from pathlib import Path

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.console import announce
from lumen.core.errors import BadConfig, BadSample, UnknownName, suggestion
from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch, Metric, Task
from lumen.core.paths import user_path
from lumen.core.registry import metrics
from lumen.core.sheets import stack_pictures
from lumen.core.visualize import save_png, tile_images
from lumen.data.datamodule import DataModule
from lumen.data.loader import collate
from lumen.runs.build import build_data
from lumen.runs.photos import Fit, load_photo
from lumen.runs.sample import load_task

LENGTHS = (-3, -2, -1, 0, 1, 2, 3)  # columns, in parts of the longest


def save_edits(
    run: Path, config: Config, source: str, names: list[str], out: Path, length: float | None, fit: Fit, recipe: str
) -> None:
    """Write a sheet of the edits of some classes at once, or below one another the sheets of every class.

    Args:
        source: Photo, or id of an image of the data set.
        names: Classes; none means every class of the image.
        length: Longest edit.
        recipe: Command, which the file holds.

    Raises:
        BadConfig: The run has no directions.
        UnknownName: There is no such class or image.
        BadSample: The image does not show the class.
    """
    if config.task["name"] != "directions":
        raise BadConfig(f"{run} learns the task '{config.task['name']}'; name a run of task=directions.")
    data = build_data(config)
    classes = data.source.classes
    if unknown := [name for name in names if name not in classes]:
        raise UnknownName(f"no class is called '{unknown[0]}'; {suggestion(unknown[0], classes)}")
    path = user_path(source)
    photo = load_photo(path, config.size, fit=fit) if path.is_file() else None  # before anything is built
    batch = photo or find_image(data, source)
    mask = batch.mask if photo is None else segment_photo(config, photo, classes)
    visible = [classes[i] for i in mask.unique().tolist() if i < len(classes)]
    if not visible:
        raise BadSample(
            f"'{source}' shows none of the {len(classes)} classes that {data.source.name} labels, so nothing of it can "
            "be edited; name another image."
        )
    if hidden := [name for name in names if name not in visible]:
        raise BadSample(f"'{source}' shows no {hidden[0]}; it shows {', '.join(visible)}.")
    task = load_task(run, config)
    groups = [[name] for name in visible] if not names else [names]
    sheets = [make_sheet(task, batch, mask, [classes.index(n) for n in group], length, config.seed) for group in groups]
    with atomic_path(out) as draft:
        save_png(stack_pictures(sheets), draft, {"command": recipe, "seed": str(config.seed)})


def find_image(data: DataModule, image_id: str) -> Batch:
    """Return an image of the data set by its id, as a batch of one.

    Raises:
        UnknownName: No image has this id.
    """
    known: list[str] = []
    for split in dict.fromkeys((data.source.eval_split, "val", "train")):
        dataset = data.dataset(split)
        ids = [record.id for record in dataset.records]
        if image_id in ids:
            return collate([dataset[ids.index(image_id)]]).to("cpu")
        known += ids[:3]
    raise UnknownName(
        f"'{image_id}' is no file, and no image of {data.source.name} has this id; give a photo, or an id such as "
        f"{', '.join(known[:3])}."
    )


def segment_photo(config: Config, photo: Batch, classes: tuple[str, ...]) -> Int[Tensor, "1 H W"]:
    """Return the label map that a segmenter sees in a photo: that of the metric mIoU.

    Raises:
        BadConfig: The run names no segmenter.
    """
    segmenter = config.metrics.get("miou", config.defaults.get("metrics", {})).get("segmenter")
    if segmenter is None:
        raise BadConfig(
            "a photo has no label map, and this run names no segmenter; add metrics.miou.segmenter=FOLDER, or name an "
            "image of the data set by its id."
        )
    metric: Metric = metrics.build("miou", segmenter=segmenter, classes=classes)
    announce(f"{photo.id[0]} is generated anew from the label map that the segmenter '{segmenter}' sees in it.")
    with torch.no_grad():
        return metric.predict(photo.image, tuple(photo.image.shape[-2:]))


@torch.no_grad()
def make_sheet(
    task: Task, batch: Batch, mask: Int[Tensor, "1 H W"], classes: list[int], length: float | None, seed: int
) -> Image.Image:
    """Return the edits of some classes at once: one row per direction, one column per length."""
    longest = length or LENGTHS[-1] * task.edit_length
    lengths = [longest * part / LENGTHS[-1] for part in LENGTHS]
    edits = task.edit_series(mask.to(task.device), classes, lengths, (seed, "edit", batch.id[0])).cpu()
    names = ", ".join(task.class_names[i] for i in classes)
    return tile_images(
        [list(row) for row in edits],
        [f"{value:+.0f}" if value else "unedited" for value in lengths],
        [f"{names}: direction {number}" for number in range(1, len(edits) + 1)],
    )
