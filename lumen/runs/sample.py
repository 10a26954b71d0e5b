"""Samples of a trained run for any photo, and layouts of any photo, as pictures."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.console import announce
from lumen.core.errors import BadCheckpoint, BadConfig
from lumen.core.interfaces import Batch, Conditioning, Task
from lumen.core.registry import conditionings
from lumen.core.sheets import SCALE, component_pictures, make_layout_sheet
from lumen.core.visualize import make_grid, preview_columns
from lumen.data.readers import read_photo
from lumen.runs.build import build_conditioning, build_task, device
from lumen.runs.checkpoints import read_checkpoint, restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.layout_files import load_layout, verify_layout
from lumen.runs.photos import Fit, describe_fit, to_batch
from lumen.runs.picture_files import PictureFiles
from lumen.training.validation_photos import sample_photo

CONDITIONING = "conditioning."  # beginning of the keys of a checkpoint that belong to the conditioning


def load_task(run: Path, config: Config) -> Task:
    """Return a run's task with the weights of its checkpoint, on the device that the config names."""
    checkpoint = select_checkpoint(run, config)
    task = build_task(config, build_data(config))
    restore(task, checkpoint)
    return task.to(device(config))


def sample_images(task: Task, batch: Batch, num_samples: int, seed: int, sampling: dict[str, Any]) -> list[Tensor]:
    """Return samples (1, 3, H, W) in [-1, 1] for a batch of one photo.

    Raises:
        BadConfig: The task does not generate images.
    """
    if "images" not in task.output_kind:
        raise BadConfig(f"this run predicts {task.output_kind}; name a run that generates images.")
    return sample_photo(task, batch.to(task.device), num_samples, seed, sampling)


def save_samples(
    run: Path,
    config: Config,
    photo: Path,
    prompts: list[str],
    files: PictureFiles,
    fit: Fit = "stretch",
    layout_file: Path | None = None,
) -> None:
    """Write a sheet of a photo, its layout, and samples under each prompt, or each of these pictures alone as well.

    Args:
        layout_file: Layout in place of the photo's own, such as an edited one.
    """
    batches = _load_photos([photo], config.size, prompts, fit)
    layout = None if layout_file is None else load_layout(layout_file)
    sampling = asdict(config.sampling)
    num_samples = sampling.pop("images")
    files.verify(["layout", *map(str, range(num_samples * len(prompts)))])
    task = load_task(run, config)
    batch = batches[0].to(task.device)
    if layout is not None:
        verify_layout(task, batch, layout, layout_file)
        layout = layout.to(task.device)
        sampling["layout"] = layout
    samples = [sample_images(task, batch, num_samples, config.seed, sampling) for batch in batches]
    picture = task.visualize(batch) if layout is None else task.visualize_layout(layout)
    picture = (batch.image + 1) / 2 if picture is None else picture
    # The photo and its layout stand once, beside the first prompt.
    first = [torch.cat([x, torch.ones_like(x).expand(len(prompts) - 1, -1, -1, -1)]) for x in (batch.image, picture)]
    columns = preview_columns(*first, [torch.cat(images) for images in zip(*samples, strict=True)])
    files.save_sheet(make_grid(columns, prompts, task.legend), {"prompts": prompts})
    files.save_layout("layout", batch.image, picture, task.layout(batch) if layout is None else layout)
    for number, image in enumerate(image for images in samples for image in images):
        files.save_picture(str(number), image[0], {"prompt": prompts[number // num_samples]})


def save_layouts(
    paths: list[Path], config: Config, files: PictureFiles, run: Path | None = None, fit: Fit = "stretch"
) -> None:
    """Write a sheet of photos with their layouts, or each layout alone as well.

    Args:
        run: Run whose conditioning makes the layouts; without one, a basis is fitted to these photos unless the config
            names one.
    """
    batches = _load_photos(paths, config.size, [""], fit)  # before anything is built
    names = ["layout"] if len(paths) == 1 else [f"layout-{number}" for number in range(len(paths))]
    files.verify(names)
    conditioning = _build_layouts(config) if run is None else load_conditioning(run, config)
    batches = [batch.to(device(config)) for batch in batches]
    is_fitted = conditioning.fitted
    if not is_fitted:
        conditioning.fit(batches, len(batches), config.seed, "the photos shown")
    with torch.no_grad():
        layouts = torch.cat([conditioning(batch) for batch in batches])
    if not is_fitted and conditioning.explained is not None:
        announce(_describe_axes(layouts, conditioning.explained))
    images, pictures = torch.cat([batch.image for batch in batches]), conditioning.visualize(layouts)
    columns, legend = {"image": images, "layout": pictures * 2 - 1}, conditioning.legend
    if conditioning.explained is not None:
        columns = component_pictures(images, layouts, conditioning.explained)
        legend = f"percentages: share in the variance of {len(conditioning.explained)} components; {SCALE}"
    files.save_sheet(make_layout_sheet([path.name for path in paths], columns, legend), {})
    for i, name in enumerate(names):
        files.save_layout(name, images[i : i + 1], pictures[i : i + 1], layouts[i : i + 1])


def load_conditioning(run: Path, config: Config) -> Conditioning:
    """Return a run's conditioning with what it has learnt, such as its PCA basis.

    Raises:
        BadConfig: The task of the run has none.
        BadCheckpoint: The config differs from that of the run.
    """
    state = read_checkpoint(select_checkpoint(run, config))["state_dict"]
    state = {key.removeprefix(CONDITIONING): value for key, value in state.items() if key.startswith(CONDITIONING)}
    if not state:
        raise BadConfig(f"{run} learns the task '{config.task['name']}', which has no layouts; name another run.")
    conditioning = build_conditioning(config, build_data(config))
    try:
        conditioning.load_state_dict(state)
    except RuntimeError:
        raise BadCheckpoint(
            f"{run} was trained with layouts of another shape; leave out backbone= and conditioning=, or leave out the "
            "run."
        ) from None
    return conditioning.to(device(config))


def _build_layouts(config: Config) -> Conditioning:
    """Return the conditioning of a config; what it is fitted on are all cells of the photos."""
    vectors = conditionings.arguments(config.conditioning["name"]).get("vectors")
    if vectors and vectors.accepts("all"):
        config = replace(config, conditioning=config.conditioning | {"vectors": "all"})
    return build_conditioning(config, build_data(config)).to(device(config))


def _describe_axes(layouts: Float[Tensor, "b k h w"], explained: list[float]) -> str:
    """Return a sentence about how little axes mean that were fitted on a few photos."""
    cells, photos = layouts[:, 0].numel(), "1 photo" if len(layouts) == 1 else f"{len(layouts)} photos"
    count, half = len(explained), len(explained) // 2
    weak = f"; the last {count - half} explain {sum(explained[half:]):.1%} of their variance" if half else ""
    return (
        f"{count} axes were fitted on {cells} cells of {photos}{weak}: they are those of these photos alone. "
        "`lumen layout RUN PHOTO` takes the axes of a run."
    )


def _load_photos(paths: list[Path], size: int, prompts: list[str], fit: Fit) -> list[Batch]:
    """Return each photo under each prompt as a batch of one, and say how it is made square."""
    photos = [read_photo(path) for path in paths]
    for photo, path in zip(photos, paths, strict=True):
        if sentence := describe_fit(photo, path, fit):
            announce(sentence)
    return [
        to_batch(photo, path, size, prompt, fit)
        for photo, path in zip(photos, paths, strict=True)
        for prompt in prompts
    ]
