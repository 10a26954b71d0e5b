"""Runs of four backbones on `scenes`, one after another with one cache, instead of four runs that share nothing.

These are whole commands without evaluation: they load networks, fit PCA, fill the cache and write a sample grid. Each
image is used nine times, as in the full table.
"""

import contextlib
import io
import tempfile

import torch

from lumen.config.experiment import load
from lumen.runs.train import train

PEER = "lumen train with cache=never, four times"
LIBRARIES = ("lightning", "torch")
ROUNDS = 1
TOLERANCE = 0.0  # of validation losses after the last step
TARGET_SPEEDUP = 2.0
MIN_FLOP_RATIO = 1.1
BOTTLENECK = (
    "frozen networks are a fifth of the operations of a run on `scenes`, so four runs cannot take half of the time; at "
    "512 px they are 33 to 70 %"
)
QUIET = ["metrics=[]", "wandb=disabled", "accelerator=cpu", "validation=2", "sampling.images=1", "sampling.steps=1"]


def inputs(small: bool = False) -> tuple:
    """Return names of backbones and overrides."""
    names = ("dino", "sd") if small else ("clip", "dino", "dinov2", "sd")
    images, batch, steps = (4, 4, 5) if small else (40, 16, 24)
    overrides = [f"data.images={images}", f"batch={batch}", f"steps={steps}", "conditioning.vectors=1600", *QUIET]
    return names, [*overrides, "size=32", "conditioning.vectors=40"] if small else overrides


def peer(names: tuple[str, ...], overrides: list[str]) -> torch.Tensor:
    """Return the losses of runs without a cache."""
    with tempfile.TemporaryDirectory() as directory:
        return train_all(names, [*overrides, "cache=never"], directory)


def ours(names: tuple[str, ...], overrides: list[str]) -> torch.Tensor:
    """Return the losses of runs with one cache."""
    with tempfile.TemporaryDirectory() as directory:
        return train_all(names, overrides, directory)


def train_all(names: tuple[str, ...], overrides: list[str], directory: str) -> torch.Tensor:
    """Train a run for every backbone. Return their last validation losses."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        configs = [load("scenes", [*overrides, f"backbone={name}", f"runs={directory}"]) for name in names]
        results = [train(config) for config in configs]
    return torch.tensor([result["val/loss"] for result in results])
