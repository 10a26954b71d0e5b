"""Four backbones on `scenes`, one after another from one cache, instead of four runs that share nothing.

Whole commands but for their measuring: networks are loaded, axes fitted, the cache filled, a picture drawn. As in the
full table each image is looked at nine times.
"""

import contextlib
import io
import tempfile

import torch

from lumen.config.experiment import load
from lumen.runs import train as run

PEER = "lumen train with cache=never, four times"
LIBRARIES = ("lightning", "torch")
ROUNDS = 1
APART = 0.0  # validation losses after the last step, bit by bit
TARGET = 2.0
FLOPS = 1.1
MISSED = (
    "frozen networks are a fifth of the operations of a run on `scenes`, so four runs cannot take half; at 512 px "
    "they are 33 to 70 %"
)
QUIET = ["metrics=[]", "wandb=disabled", "accelerator=cpu", "validation=2", "sampling.images=1", "sampling.steps=1"]


def inputs(small: bool = False) -> tuple:
    names = ("dino", "sd") if small else ("clip", "dino", "dinov2", "sd")
    images, batch, steps = (4, 4, 8) if small else (40, 16, 24)
    flags = [f"data.images={images}", f"batch={batch}", f"steps={steps}", "conditioning.vectors=1600", *QUIET]
    return names, [*flags, "size=32", "conditioning.vectors=40"] if small else flags


def peer(names: tuple[str, ...], flags: list[str]) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        return trained(names, [*flags, "cache=never"], folder)


def ours(names: tuple[str, ...], flags: list[str]) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        return trained(names, flags, folder)


def trained(names: tuple[str, ...], flags: list[str], folder: str) -> torch.Tensor:
    """The last validation loss of each."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = [run.train(load("scenes", [*flags, f"backbone={name}", f"runs={folder}"])) for name in names]
    return torch.tensor([each["val/loss"] for each in found])
