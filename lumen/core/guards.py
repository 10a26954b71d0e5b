"""Guards of directories that must stay in their place while a command writes there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumen.core.errors import RunMissing

_guards: list[tuple[Path, int]] = []  # directories and their descriptors


@contextmanager
def guard_directory(directory: Path) -> Iterator[None]:
    """Let `verify_place` fail below a directory within the context, once it has been moved or removed.

    A directory that does not exist yet is not guarded.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)  # while it is open, its number stays, on any file system
    except OSError:
        yield
        return
    guard = directory.absolute(), descriptor
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)
        os.close(descriptor)


def verify_place(path: Path) -> None:
    """Verify that every guarded directory above a path is where it was.

    Raises:
        RunMissing: A directory was moved or removed. A new one in its place would lack what the old one holds.
    """
    for directory, descriptor in _guards:
        if path.absolute().is_relative_to(directory) and not is_in_place(directory, descriptor):
            raise RunMissing(
                f"{directory} was moved or removed while a command was writing to it; put it back and repeat the "
                "command, which resumes from the last checkpoint."
            )


def is_in_place(path: Path, descriptor: int) -> bool:
    """Return whether a path still leads to an open file or directory."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be reached now, which the next write will say
        return True
