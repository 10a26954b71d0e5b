"""Locks of directories."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from lumen.core.errors import Mistake, RunBusy
from lumen.core.guards import guard_directory, is_in_place

LOCKS_VARIABLE = "LUMEN_LOCKS"  # environment variable: "optional" goes on without locks where there are none
BUSY_ERRORS = (errno.EAGAIN, errno.EACCES)

_held_locks: set[IO] = set()  # open lock files of this process


@contextmanager
def lock_directory(
    directory: Path, name: str = ".lock", shared: bool = False, temporary: bool = True
) -> Iterator[bool]:
    """Hold the lock of a directory within the context, and create the directory if necessary.

    Args:
        name: Lock file in the directory; a directory may have several locks.
        shared: Whether several processes may hold the lock; while one holds it alone, the others wait.
        temporary: Whether directories that were made for the lock, and hold nothing else afterwards, are removed.

    Yields:
        Whether there is a lock; a file system without any is accepted with LUMEN_LOCKS=optional.

    Raises:
        RunBusy: Another process holds the lock.
        Mistake: The directory cannot be written, or its file system has no locks.
    """
    new = [folder for folder in (directory, *directory.parents) if not os.path.exists(folder)]
    with _open_locked(directory / name, shared) or nullcontext() as lock:
        if lock:
            _held_locks.add(lock)
        try:
            with guard_directory(directory):
                yield lock is not None
        finally:
            _held_locks.discard(lock)
            if temporary and not shared:
                _remove_empty(new, directory / name)


def is_locked(directory: Path, name: str = ".lock") -> bool:
    """Return whether a process holds the lock of a directory."""
    try:
        with open(directory / name, "rb") as lock, _lock(lock, shared=False):
            return False
    except OSError as error:
        return _is_busy(error)


def _remove_empty(folders: list[Path], lock: Path) -> None:
    """Remove folders that were made for a lock and hold nothing else, as after a command that was refused."""
    with suppress(OSError):  # another process is using them
        if folders and [*folders[0].iterdir()] == [lock]:
            lock.unlink()
            for folder in folders:
                folder.rmdir()


def _open_locked(path: Path, shared: bool) -> IO | None:
    """Return the open file of a lock, once it is locked; None where there is no lock and LUMEN_LOCKS=optional."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))  # noqa: SIM115
        except OSError as error:
            reason = error.strerror
            raise Mistake(
                f"{path.parent} cannot be written: {reason}; choose another directory with runs=DIR."
            ) from None
        try:
            lock = _lock(lock, shared)
        except OSError as error:
            if _is_busy(error):
                raise RunBusy(
                    f"{path.parent} is in use by another process; wait for it, or give this run another seed= or runs=."
                ) from None
            if os.environ.get(LOCKS_VARIABLE) == "optional":
                return None
            raise Mistake(
                f"the file system of {path.parent} gives no lock ({error.strerror}); choose another one with runs=DIR, "
                f"or set {LOCKS_VARIABLE}=optional and see to it that no run is started twice."
            ) from None
        if is_in_place(path, lock.fileno()):
            return lock
        lock.close()  # a command that was refused has removed it meanwhile


def _lock(file: IO, shared: bool) -> IO:
    """Lock a file, or the same file open for writing, and return what is locked.

    The system releases the lock when the process ends, however it ends: no stale lock remains.

    Raises:
        OSError: Another process holds the lock, or the file system has none.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(file, operation)
        return file
    except OSError as error:
        file.close()
        if error.errno != errno.EBADF:
            raise
    # NFS locks only what is open for writing. Elsewhere that would keep a disk from being made read-only.
    file = open(file.name, "r+b")  # noqa: SIM115
    try:
        fcntl.flock(file, operation)
    except OSError:
        file.close()
        raise
    return file


def _is_busy(error: OSError) -> bool:
    """Return whether another process holds the lock; an error of opening the file has its name."""
    return error.errno in BUSY_ERRORS and error.filename is None


def _release_after_fork() -> None:
    """Release all locks in a forked data loader worker, which may outlive a run that is killed."""
    for lock in _held_locks:
        lock.close()


os.register_at_fork(after_in_child=_release_after_fork)
