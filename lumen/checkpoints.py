"""Checkpoints: what was learnt, whole or not there, loaded without running any code in them."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lumen.errors import BadCheckpoint
from lumen.files import beside


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target and renames: Lightning's own goes through $TMPDIR, and a move is no rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        with beside(Path(path)) as draft:
            try:
                torch.save(checkpoint, draft)
            except RuntimeError as error:  # how torch says that the disk is full
                raise OSError(str(error).partition("\n")[0]) from error


class Checkpoints(Callback):
    """Saves every few optimiser steps and at the end, and keeps the newest.

    Where validation is due on the same batch the save comes after it, or a continued run would skip it.
    """

    def __init__(self, folder: Path, every: int, keep: int):
        self.folder, self.every, self.keep = folder, every, keep
        self.saved = -1

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if due and not _validates_now(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit" and trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self.saved:
            return
        trainer.save_checkpoint(self.folder / f"step{step:08d}.ckpt", weights_only=False)  # optimiser and loops too
        self.saved = step
        if trainer.is_global_zero:
            for old in found(self.folder)[self.keep :]:
                old.unlink()


def found(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    return sorted(folder.glob("step" + "[0-9]" * 8 + ".ckpt"), reverse=True)


def step_of(path: Path) -> int:
    """The optimiser step in a checkpoint's name."""
    return int(path.stem.removeprefix("step"))


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that loads; one that does not is named and passed over.

    Raises:
        BadCheckpoint: there are checkpoints, and not one of them loads.
    """
    paths = found(folder)
    for path in paths:
        try:
            read(path)
            return path
        except BadCheckpoint as error:
            print(f"passing over a checkpoint: {error}")
    if paths:
        raise BadCheckpoint(f"none of the {len(paths)} checkpoints in {folder} can be read; remove them to start anew.")
    return None


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        BadCheckpoint: truncated, not a checkpoint, or a pickle that would run code.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["global_step"], checkpoint["state_dict"]
        return checkpoint
    except pickle.UnpicklingError:
        reason = "it holds more than tensors and plain values, and code in a checkpoint is never run"
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        reason = f"it is cut short or damaged ({str(error).partition(chr(10))[0]})"
    except (KeyError, TypeError):
        reason = "it is no Lightning checkpoint"
    raise BadCheckpoint(f"{path} cannot be used: {reason}; remove it, the run then goes on from an older one.")


def _validates_now(trainer: Trainer) -> bool:
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
