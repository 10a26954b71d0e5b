"""Locks of directories."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lumen.core.errors import Mistake, RunBusy
from lumen.core.guards import guard_directory

LOCKS_VARIABLE = "LUMEN_LOCKS"  # environment variable: "optional" goes on without locks where there are none
BUSY_ERRORS = (errno.EAGAIN, errno.EACCES)

_held_locks: set[IO] = set()  # open lock files of this process


@contextmanager
def lock_directory(directory: Path, name: str = ".lock", shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a directory within the context, and create the directory if necessary.

    Args:
        name: Lock file in the directory; a directory may have several locks.
        shared: Whether several processes may hold the lock; while one holds it alone, the others wait.

    Yields:
        Whether there is a lock; a file system without any is accepted with LUMEN_LOCKS=optional.

    Raises:
        RunBusy: Another process holds the lock.
        Mistake: The directory cannot be written, or its file system has no locks.
    """
    try:
        new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / name).open("a+b")  # NFS locks what is open for writing, and shares what is for reading
    except OSError as error:
        reason = error.strerror
        raise Mistake(f"{directory} cannot be written: {reason}; choose another directory with runs=DIR.") from None
    with lock:
        exists = _lock_or_refuse(lock, directory, shared)
        _held_locks.add(lock)
        try:
            with guard_directory(directory):
                yield exists
        finally:
            _held_locks.discard(lock)
            _remove_empty(new, directory / name)


def _remove_empty(folders: list[Path], lock: Path) -> None:
    """Remove folders that were made for a lock and hold nothing else, as after a command that was refused."""
    with suppress(OSError):  # another process is using them
        if folders and [*folders[0].iterdir()] == [lock]:
            lock.unlink()
            for folder in folders:
                folder.rmdir()


def is_locked(directory: Path, name: str = ".lock") -> bool:
    """Return whether a process holds the lock of a directory."""
    try:
        with open(directory / name, "r+b") as lock:
            return not _try_lock(lock)
    except OSError:
        return False


def _lock_or_refuse(lock: IO, directory: Path, shared: bool) -> bool:
    try:
        if _try_lock(lock, shared) and os.fstat(lock.fileno()).st_nlink:  # not removed by a refused command meanwhile
            return True
    except OSError as error:
        if os.environ.get(LOCKS_VARIABLE) == "optional":
            return False
        raise Mistake(
            f"the file system of {directory} gives no lock ({error.strerror}); choose another one with runs=DIR, or "
            f"set {LOCKS_VARIABLE}=optional and see to it that no run is started twice."
        ) from None
    raise RunBusy(f"{directory} is in use by another process; wait for it, or give this run another seed= or runs=.")


def _try_lock(lock: IO, shared: bool = False) -> bool:
    """Lock a file, and return whether that was possible; if not, another process holds the lock.

    The system releases the lock when the process ends, however it ends: no stale lock remains.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in BUSY_ERRORS:
            raise
        return False
    return True


def _release_after_fork() -> None:
    """Release all locks in a forked data loader worker, which may outlive a run that is killed."""
    for lock in _held_locks:
        lock.close()


os.register_at_fork(after_in_child=_release_after_fork)
