"""Exclusive locks of directories."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lumen.core.errors import Mistake, RunBusy

LOCKS: set[IO] = set()  # of the folders that this process holds


@contextmanager
def claim(folder: Path, name: str = ".lock") -> Iterator[Path]:
    """Holds the folder, or what else `name` stands for in it, for this process.

    Raises:
        RunBusy: another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise Mistake(f"{folder} cannot be written: {error.strerror}; choose another folder with runs=DIR.") from None
    with open(folder / name) as lock:
        try:
            # The system drops the lock when the process ends, however it ends: nothing stale is left.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusy(
                f"{folder} is being written by another process; wait for it, or give this run another seed= or runs=."
            ) from None
        LOCKS.add(lock)
        try:
            yield folder
        finally:
            LOCKS.discard(lock)


def _let_go() -> None:
    """For processes forked to read images: they outlive a run that is killed, and must not hold its folder."""
    for lock in LOCKS:
        lock.close()


os.register_at_fork(after_in_child=_let_go)
