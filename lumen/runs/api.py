"""Python API of a run: load it, read its results, sample from it, export it."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumen.config.experiment import reload
from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Task
from lumen.core.paths import user_path
from lumen.core.visualize import to_uint8
from lumen.runs.directory import load_results, load_run_config
from lumen.runs.export import Weights, export_run
from lumen.runs.photos import Fit, load_photo
from lumen.runs.sample import load_task, sample_images


class Run:
    """A trained run.

    Args:
        directory: Run directory, such as runs/scenes/default/seed0.
        config: Config of the run.
    """

    def __init__(self, directory: Path, config: Config):
        self.directory, self.config = directory, config

    @property
    def results(self) -> dict[str, Any] | None:
        """Metric values of a finished run; None if it is not finished."""
        return load_results(self.directory)

    @cached_property
    def task(self) -> Task:
        """The trained LightningModule with its newest checkpoint, averaged if the run had an EMA."""
        return load_task(self.directory, self.config)

    def sample(
        self,
        photo: str | Path,
        prompt: str = "",
        seed: int = 0,
        num_samples: int | None = None,
        fit: Fit = "stretch",
        **sampling: Any,
    ) -> list[Image.Image]:
        """Return images with the layout of a photo, under a prompt.

        Args:
            num_samples: Number of images; by default that of the config.
            fit: "stretch", "crop" or "pad": a way to make a photo square.
            sampling: Options that replace those of the config's `sampling`, such as guidance=2.0.
        """
        options = asdict(self.config.sampling) | sampling
        count = options.pop("images")
        batch = load_photo(user_path(photo), self.config.size, prompt, fit)
        samples = sample_images(self.task, batch, num_samples or count, seed, options)
        return [Image.fromarray(to_uint8(sample[0]).numpy()) for sample in samples]

    def layout(self, photo: str | Path, fit: Fit = "stretch") -> Float[Tensor, "k h w"]:
        """Return the layout of a photo.

        Args:
            fit: "stretch", "crop" or "pad": a way to make a photo square.

        Raises:
            BadConfig: The task of the run has none.
        """
        batch = load_photo(user_path(photo), self.config.size, "", fit)
        layout = self.task.layout(batch.to(self.task.device))
        if layout is None:
            raise BadConfig(f"{self.directory} learns a task without layouts; name another run.")
        return layout[0].cpu()

    def export(self, out: str | Path, weights: Weights = "averaged", push: str | None = None) -> Path:
        """Write a folder that diffusers opens without LUMEN, as `lumen export` does, and return it.

        Args:
            weights: "averaged", where the run had an EMA, or "raw".
            push: Repository on the Hub, as USER/NAME, that the folder is uploaded to.
        """
        export_run(self.directory, self.config, user_path(out), weights, push)
        return user_path(out)


def load_run(directory: str | Path, *flags: str) -> Run:
    """Return a run from its directory.

    Args:
        flags: Overrides such as "accelerator=cpu" or "best=val/loss".

    Raises:
        UnknownName: This is no run directory.
    """
    return Run(user_path(directory), reload(load_run_config(user_path(directory)), flags))
