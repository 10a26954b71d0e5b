"""Exclusive locks of directories."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lumen.core.errors import Mistake, RunBusy

_held_locks: set[IO] = set()  # open lock files of this process


@contextmanager
def lock_directory(directory: Path, name: str = ".lock") -> Iterator[Path]:
    """Hold the lock of a directory within the context, and create the directory if necessary.

    Args:
        name: Lock file in the directory; a directory may have several locks.

    Raises:
        RunBusy: Another process holds the lock.
        Mistake: The directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    except OSError as error:
        reason = error.strerror
        raise Mistake(f"{directory} cannot be written: {reason}; choose another directory with runs=DIR.") from None
    with open(directory / name) as lock:
        try:
            # The system releases the lock when the process ends, however it ends: no stale lock remains.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusy(
                f"{directory} is in use by another process; wait for it, or give this run another seed= or runs=."
            ) from None
        _held_locks.add(lock)
        try:
            yield directory
        finally:
            _held_locks.discard(lock)


def _release_after_fork() -> None:
    """Release all locks in a forked data loader worker, which may outlive a run that is killed."""
    for lock in _held_locks:
        lock.close()


os.register_at_fork(after_in_child=_release_after_fork)
