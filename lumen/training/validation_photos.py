"""Validation photos: samples for photos and prompts of the user, whenever validation ends."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch, Task
from lumen.core.random import stable_seed
from lumen.core.visualize import make_grid, preview_columns, save_grid
from lumen.training.lightning_internals import logged_step
from lumen.training.loggers import log_picture
from lumen.training.wandb_logger import ResilientWandbLogger

FILE = "validation.png"


@torch.no_grad()
def sample_photo(
    task: Task, photo: Batch, num_samples: int, seed: int, sampling: dict[str, Any]
) -> list[Float[Tensor, "1 3 H W"]]:
    """Return samples in [-1, 1] for a batch of one photo, which depend on no other photo.

    Args:
        sampling: Options of `Task.outputs`, such as those of the config's `sampling`.
    """
    seeds = [[stable_seed(seed, "sample", k)] for k in range(num_samples)]
    outputs = task.outputs(photo, seeds, **sampling)
    return list((outputs["images"] if isinstance(outputs, dict) else outputs).unbind(1))


class ValidationPhotos(Callback):
    """Samples for photos and prompts of the user, written to validation.png and sent to the loggers.

    Seeds are fixed, and those of `lumen sample`: of the last checkpoint, both make the same images.

    Args:
        directory: Run directory.
        photos: Photos with their prompts, each a batch of one.
        sampling: The config's `sampling`; `images` is the number of samples per photo.
        seed: Seed of the samples.
    """

    def __init__(self, directory: Path, photos: list[Batch], sampling: dict[str, Any], seed: int):
        self.directory, self.photos, self.seed = directory, photos, seed
        self.sampling = dict(sampling)
        self.num_samples = self.sampling.pop("images")

    # Before EMA restores the raw weights, as the grid.
    def on_validation_epoch_end(self, trainer: Trainer, task: Task) -> None:
        if not trainer.is_global_zero:
            return
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            rows = [self._columns(task, photo.to(task.device)) for photo in self.photos]
        columns = {title: torch.cat([row[title] for row in rows]) for title in rows[0]}
        captions, step = [photo.caption[0] for photo in self.photos], logged_step(trainer)
        grid = make_grid(columns, captions, task.legend)
        with atomic_path(self.directory / FILE) as draft:
            save_grid(grid, captions, draft, list(columns))
        for logger in trainer.loggers:
            if isinstance(logger, ResilientWandbLogger):
                logger.log_preview({f"validation/{title}": x for title, x in columns.items()}, captions, step)
            else:
                log_picture(logger, "validation", grid, step)

    def _columns(self, task: Task, photo: Batch) -> dict[str, Float[Tensor, "1 3 _ _"]]:
        layout, samples = task.visualize(photo), sample_photo(task, photo, self.num_samples, self.seed, self.sampling)
        return preview_columns(photo.image, (photo.image + 1) / 2 if layout is None else layout, samples)
