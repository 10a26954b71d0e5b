"""Cache settings of a run."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lumen.data.cache import directory_bytes


@dataclass(frozen=True)
class CacheOptions:
    """Cache settings of a run.

    Attributes:
        mode: "always", "never", or "auto": where the run reads each view of an image at least twice.
        root: Directory of all cache entries.
        limit_bytes: Size that the directory may grow to.
        batch_size: Images of a training micro-batch.
        num_images: Images that one rank reads in the whole run, repetitions included.
        seed: Seed of the run.
        task: Name of the task, unless it is the default one; entries of two tasks are never mixed up.
        arguments: Arguments of each component that differ from their defaults.
    """

    mode: Literal["auto", "always", "never"]
    root: Path
    limit_bytes: float
    batch_size: int
    num_images: int
    seed: int
    task: str | None = None
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def free_bytes(self) -> float:
        """Return the bytes that may still be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        return min(self.limit_bytes - directory_bytes(self.root), 0.95 * shutil.disk_usage(self.root).free)
