"""Removal of the checkpoints that a finished run no longer needs."""

from dataclasses import dataclass
from pathlib import Path

from lumen.core.locks import lock_directory
from lumen.runs.inventory import RunInfo
from lumen.training.checkpoint_files import find_dispensable, list_checkpoints, metadata_path, remove, verify


@dataclass(frozen=True)
class Removal:
    """Checkpoints of a finished run that are to be removed.

    Attributes:
        paths: All but the newest and, if the run kept its best, the best one.
    """

    run: RunInfo
    paths: list[Path]

    @property
    def num_bytes(self) -> int:
        """Size of the files that are removed, metadata included."""
        files = [file for path in self.paths for file in (path, metadata_path(path))]
        return sum(file.stat().st_size for file in files if file.exists())

    def carry_out(self) -> int:
        """Remove the checkpoints, and return the bytes that became free.

        Raises:
            BadCheckpoint: The newest checkpoint is damaged, so that an older one may be needed.
            RunBusy: A process holds the run.
        """
        with lock_directory(self.run.directory):
            verify(list_checkpoints(self.run.directory / "checkpoints")[0])
            num_bytes = self.num_bytes
            for path in self.paths:
                remove(path)
            return num_bytes


def plan_removals(runs: list[RunInfo]) -> list[Removal]:
    """Return what can be removed of the finished ones among runs; those with nothing to remove are left out."""
    removals = [
        Removal(run, find_dispensable(run.directory / "checkpoints", 1, run.settings.get("best")))
        for run in runs
        if run.state == "finished"
    ]
    return [removal for removal in removals if removal.paths]
