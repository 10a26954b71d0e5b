"""Checkpoint files: written atomically, verified by hash, loaded without running code."""

import hashlib
import os
import pickle
from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lumen.core.errors import BadCheckpoint, Mistake, explain_shortage
from lumen.core.files import atomic_path, write_json
from lumen.training.checkpoint_files import (
    list_checkpoints,
    metadata_path,
    prune,
    read_metadata,
    read_validation,
    step_of,
    unusable,
    verify,
)

__all__ = [
    "AtomicCheckpointIO", "best", "list_checkpoints", "metadata_path", "newest", "prune", "read", "read_metadata",
    "step_of", "verify",
]  # fmt: skip


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint I/O that writes beside the target and renames; Lightning's own moves a file from $TMPDIR.

    The metadata, a JSON file of the same name, is written first: the SHA-256 of the intended content, the step, and
    the storage options.

    Args:
        flush_history: Function that flushes to disk what was logged until then, before a checkpoint gets its name.
    """

    def __init__(self, flush_history: Callable[[], None] = lambda: None):
        super().__init__()
        self.flush_history = flush_history

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write a checkpoint and its metadata."""
        with atomic_path(Path(path)) as draft:
            try:
                with open(draft, "wb") as file:
                    hashed = _HashingFile(file)
                    torch.save(checkpoint, hashed)
            except RuntimeError as error:  # torch raises it when it cannot end the file: on a full disk, after Ctrl-C
                cause = error.__context__
                if cause is not None and not isinstance(cause, Exception):
                    raise cause from None
                raise OSError(str(error).partition("\n")[0]) from error
            self.flush_history()
            facts = {"sha256": hashed.digest.hexdigest(), "step": checkpoint["global_step"]}
            write_json(metadata_path(Path(path)), facts | (storage_options or {}))


class _HashingFile:
    """File that hashes what it is given, whatever the disk makes of it."""

    def __init__(self, file: BufferedWriter):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def newest(directory: Path, digest: str | None = None) -> Path | None:
    """Return the newest checkpoint that is intact and loads; one that is not is reported and skipped.

    Args:
        digest: Config digest that the checkpoint must have been written under; None accepts any.

    Raises:
        BadCheckpoint: There are checkpoints, and none of them can be used.
    """
    paths = list_checkpoints(directory)
    for path in paths:
        try:
            verify(path)
            written = read_metadata(path).get("config")
            if digest and written and written != digest:
                raise unusable(path, "it was written under another config")
            read(path)
            return path
        except BadCheckpoint as error:
            print(f"skipping a checkpoint: {error}")
    if paths:
        raise BadCheckpoint(
            f"none of the {len(paths)} checkpoints in {directory} can be read; remove them to start again."
        )
    return None


def best(directory: Path, metric: str) -> Path:
    """Return the checkpoint with the lowest value of a validation metric.

    Raises:
        BadCheckpoint: It is damaged, or no remaining checkpoint was validated.
    """
    values = read_validation(directory, metric)
    if not values:
        raise BadCheckpoint(f"no checkpoint in {directory} has a {metric}; leave best out to use the newest.")
    path = min(values, key=values.get)
    verify(path)
    return path


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, on the CPU.

    Raises:
        BadCheckpoint: It is truncated, no checkpoint, or a pickle that would run code.
        Mistake: Memory ran short.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["global_step"], checkpoint["state_dict"]
        return checkpoint
    except pickle.UnpicklingError:
        reason = "it holds more than tensors and plain values, and code in a checkpoint is never run"
    except (KeyError, TypeError):
        reason = "it is no Lightning checkpoint"
    except Exception as error:  # torch raises a dozen types for damaged files
        if shortage := explain_shortage(error):
            raise Mistake(f"{path} cannot be read: {shortage}") from error
        reason = f"it is cut short or damaged ({str(error).partition(chr(10))[0]})"
    raise unusable(path, reason)
