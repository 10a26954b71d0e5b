"""Checkpoint that represents a run, and its weights in a task."""

from pathlib import Path
from typing import Any

import torch

from lumen.config.schema import Config
from lumen.core.errors import BadCheckpoint
from lumen.core.interfaces import Task, trainable_parameters
from lumen.training import checkpoint_io, half_weights
from lumen.training.callbacks import EMA


def select_checkpoint(run: Path, config: Config) -> Path:
    """Return what represents a run: its newest checkpoint, or with best=val/loss its best; else weights in halves.

    Raises:
        BadCheckpoint: There is none that can be used.
    """
    if (run / half_weights.FILE).is_file():
        return run / half_weights.FILE
    if config.flags.get("best"):
        return checkpoint_io.best(run / "checkpoints", config.flags["best"])
    newest = checkpoint_io.newest(run / "checkpoints")
    if newest is None:
        raise BadCheckpoint(f"{run} has no checkpoint yet; repeat its lumen train command first.")
    return newest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of what `select_checkpoint` returned."""
    return half_weights.read_halves(path) if path.name == half_weights.FILE else checkpoint_io.read(path)


def restore(task: Task, path: Path, averaged: bool = True) -> bool:
    """Load a checkpoint's weights into a task, and return whether they are averaged: only where the run had an EMA."""
    checkpoint = read_checkpoint(path)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    average = checkpoint.get("callbacks", {}).get(EMA.state_key)
    if average and averaged:
        with torch.no_grad():
            for weight, mean in zip(trainable_parameters(task), average["shadow_params"], strict=True):
                weight.copy_(mean)
    return bool(average and averaged)
