"""Files of a run's checkpoints: their names, metadata and hashes, and which of them stay. Nothing imports torch."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from lumen.core.errors import BadCheckpoint, Mistake
from lumen.core.readers import read_json


def list_checkpoints(directory: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    return sorted(directory.glob("step" + "[0-9]" * 8 + ".ckpt"), reverse=True)


def step_of(path: Path) -> int:
    """Return the optimiser step in a checkpoint's name."""
    return int(path.stem.removeprefix("step"))


def metadata_path(path: Path) -> Path:
    """Return the path of a checkpoint's metadata: hash, step and validation metrics."""
    return path.with_suffix(".json")


def read_metadata(path: Path) -> dict[str, Any]:
    """Return a checkpoint's metadata; an empty dict if there is none, or if it is damaged."""
    with suppress(Mistake):
        return read_json(metadata_path(path), "remove it", {"sha256": str})
    return {}


def read_validation(directory: Path, metric: str | None) -> dict[Path, float]:
    """Return the value of a validation metric by checkpoint; those that were not validated are left out."""
    metadata = {path: read_metadata(path) for path in list_checkpoints(directory)}
    values = {path: content.get(metric) for path, content in metadata.items()}
    return {path: value for path, value in values.items() if isinstance(value, int | float)}


def find_dispensable(directory: Path, keep: int, metric: str | None = None) -> list[Path]:
    """Return all checkpoints but the newest few and, if a metric is named, the one with its lowest value."""
    paths, values = list_checkpoints(directory), read_validation(directory, metric)
    retained = {*paths[:keep], *([min(values, key=values.get)] if values else [])}
    return [path for path in paths if path not in retained]


def prune(directory: Path, keep: int, metric: str | None = None) -> None:
    """Remove the dispensable checkpoints."""
    for path in find_dispensable(directory, keep, metric):
        remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint and its metadata."""
    path.unlink(missing_ok=True)
    metadata_path(path).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Compare a checkpoint with the SHA-256 that was recorded when it was written.

    Raises:
        BadCheckpoint: The file differs or cannot be read.
    """
    metadata, expected = metadata_path(path), read_metadata(path).get("sha256")
    if expected is None and metadata.exists():
        print(f"{path} is not compared with its hash, because {metadata.name} beside it is damaged.", flush=True)
    try:
        with open(path, "rb") as file:
            same = expected is None or hashlib.file_digest(file, "sha256").hexdigest() == expected
    except OSError as error:
        raise unusable(path, f"it cannot be read ({error.strerror})") from None
    if not same:
        raise unusable(path, "it is not what was written there (its sha256 differs from its metadata)")


def unusable(path: Path, reason: str) -> BadCheckpoint:
    """Return the error about a checkpoint that a run cannot resume from."""
    return BadCheckpoint(f"{path} cannot be used: {reason}; remove it, and the run resumes from an older one.")
