"""Checkpoints: what was learnt, whole or not there, loaded without running any code in them."""

import hashlib
import json
import os
import pickle
import zipfile
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lumen.core.errors import BadCheckpoint
from lumen.core.files import beside, write_json


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target and renames: Lightning's own goes through $TMPDIR, and a move is no rename.

    The record, a JSON file of the same name, is written first: the hash of what was meant to be in the file, the
    step, and the facts given as storage options.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        with beside(Path(path)) as draft:
            try:
                with open(draft, "wb") as file:
                    hashed = _Hashed(file)
                    torch.save(checkpoint, hashed)
            except RuntimeError as error:  # how torch says that the disk is full
                raise OSError(str(error).partition("\n")[0]) from error
            facts = {"sha256": hashed.digest.hexdigest(), "step": checkpoint["global_step"]}
            write_json(record_of(Path(path)), facts | (storage_options or {}))


class _Hashed:
    """A file that knows the hash of what it was given, whatever the disk makes of it."""

    def __init__(self, file: BufferedWriter):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def found(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    return sorted(folder.glob("step" + "[0-9]" * 8 + ".ckpt"), reverse=True)


def step_of(path: Path) -> int:
    """The optimiser step in a checkpoint's name."""
    return int(path.stem.removeprefix("step"))


def record_of(path: Path) -> Path:
    """Where a checkpoint's hash, step and figures stand."""
    return path.with_suffix(".json")


def record(path: Path) -> dict[str, Any]:
    """What a checkpoint's record says; nothing where it has none."""
    try:
        return json.loads(record_of(path).read_text())
    except (OSError, ValueError):
        return {}


def newest(folder: Path, config: str | None = None) -> Path | None:
    """The newest checkpoint that is what was written and loads; one that is not is named and passed over.

    Args:
        config: the hash of the config that it must have been written under; None takes any.

    Raises:
        BadCheckpoint: there are checkpoints, and not one of them can be used.
    """
    paths = found(folder)
    for path in paths:
        try:
            verify(path)
            there = record(path).get("config")
            if config and there and there != config:
                raise _unusable(path, "it was written under another config")
            read(path)
            return path
        except BadCheckpoint as error:
            print(f"passing over a checkpoint: {error}")
    if paths:
        raise BadCheckpoint(f"none of the {len(paths)} checkpoints in {folder} can be read; remove them to start anew.")
    return None


def best(folder: Path, figure: str) -> Path:
    """The checkpoint of the lowest figure.

    Raises:
        BadCheckpoint: it is damaged, or none of those that are left was validated.
    """
    figures = {path: record(path)[figure] for path in found(folder) if figure in record(path)}
    if not figures:
        raise BadCheckpoint(f"no checkpoint in {folder} has a {figure}; leave best out to use the newest.")
    path = min(figures, key=figures.get)
    verify(path)
    return path


def prune(folder: Path, keep: int, figure: str | None = None) -> None:
    """Removes all checkpoints but the newest few and, where a figure is named, the one with the lowest."""
    paths = found(folder)
    figures = {path: record(path)[figure] for path in paths if figure in record(path)}
    kept = {*paths[:keep], *([min(figures, key=figures.get)] if figures else [])}
    for path in paths:
        if path not in kept:
            path.unlink()
            record_of(path).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """
    Raises:
        BadCheckpoint: the file is not, byte for byte, what was written.
    """
    expected = record(path).get("sha256")
    try:
        with open(path, "rb") as file:
            same = expected is None or hashlib.file_digest(file, "sha256").hexdigest() == expected
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from None
    if not same:
        raise _unusable(path, "it is not what was written there (its sha256 is not that of its record)")


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
    raise _unusable(path, reason)


def _unusable(path: Path, reason: str) -> BadCheckpoint:
    return BadCheckpoint(f"{path} cannot be used: {reason}; remove it, the run then goes on from an older one.")
