"""Samples of a trained run for any photo, and layouts of any photo."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch, Conditioning, Task
from lumen.core.random import stable_seed
from lumen.core.registry import conditionings
from lumen.core.visualize import make_component_grids, make_grid, preview_columns, stack_grids
from lumen.data.readers import read_photo
from lumen.runs.build import build_conditioning, build_task, device
from lumen.runs.data import build_data
from lumen.runs.evaluate import restore, select_checkpoint


def load_task(run: Path, config: Config) -> Task:
    """Return a run's task with the weights of its checkpoint, on the device that the config names."""
    checkpoint = select_checkpoint(run, config)
    task = build_task(config, build_data(config))
    restore(task, checkpoint)
    return task.to(device(config))


def load_photo(path: Path, size: int, prompt: str = "") -> Batch:
    """Return a photo as a batch of one, resized to a square as in training."""
    image = read_photo(path).resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return Batch(image=pixels, caption=[prompt], id=[path.stem])


@torch.no_grad()
def sample_images(task: Task, batch: Batch, num_samples: int, seed: int, sampling: dict[str, Any]) -> list[Tensor]:
    """Return samples (1, 3, H, W) in [-1, 1] for a batch of one photo.

    Raises:
        BadConfig: The task does not generate images.
    """
    if task.output_kind != "images":
        raise BadConfig(f"this run predicts {task.output_kind}; name a run that generates images.")
    seeds = [[stable_seed(seed, "sample", k)] for k in range(num_samples)]
    return list(task.outputs(batch.to(task.device), seeds, **sampling).unbind(1))


def save_samples(run: Path, config: Config, photo: Path, prompt: str, out: Path) -> None:
    """Write a sheet of a photo, its layout, and samples under a prompt."""
    batch = load_photo(photo, config.size, prompt)
    task = load_task(run, config)
    sampling = asdict(config.sampling)
    samples = sample_images(task, batch, sampling.pop("images"), config.seed, sampling)
    batch = batch.to(task.device)
    layout = task.visualize(batch)
    columns = preview_columns(batch.image, (batch.image + 1) / 2 if layout is None else layout, samples)
    with atomic_path(out) as draft:
        make_grid(columns, [prompt]).save(draft, format="PNG")


def save_layouts(paths: list[Path], config: Config, out: Path) -> None:
    """Write a sheet of photos with their layouts; a basis is fitted to these photos unless one is given."""
    vectors = conditionings.arguments(config.conditioning["name"]).get("vectors")
    if vectors and vectors.accepts("all"):
        config = replace(config, conditioning=config.conditioning | {"vectors": "all"})
    batches = [load_photo(path, config.size) for path in paths]  # before anything is built
    conditioning = build_conditioning(config, build_data(config)).to(device(config))
    batches = [batch.to(device(config)) for batch in batches]
    if not conditioning.fitted:
        conditioning.fit(batches, len(batches), config.seed, "the photos shown")
    sheets = [sheet for batch in batches for sheet in _layout_sheets(conditioning, batch)]
    with atomic_path(out) as draft:
        stack_grids(sheets).save(draft, format="PNG")


@torch.no_grad()
def _layout_sheets(conditioning: Conditioning, batch: Batch) -> list[Image.Image]:
    """Return a photo beside its layout, and beside each component if the layout has components."""
    layout: Float[Tensor, "1 k h w"] = conditioning(batch)
    if conditioning.explained is None:
        return [make_grid(preview_columns(batch.image, conditioning.visualize(layout), []), [""])]
    return make_component_grids(batch.image[0], layout[0], conditioning.explained)
