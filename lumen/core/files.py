"""Atomic writes of files, and JSON lines."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lumen.core.errors import Mistake


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory, and rename it to `path` at the end of the context.

    The file is flushed to disk before the rename, so a reader sees the old file or the complete new one.

    Raises:
        Mistake: The file cannot be written, such as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with suppress(OSError), _open_directory(path.parent) as descriptor:  # some network file systems cannot flush it
            os.fsync(descriptor)
    except OSError as error:
        reason = error.strerror or error
        raise Mistake(
            f"{path} could not be written: {reason}; make room, or choose another directory with runs=DIR."
        ) from None
    finally:
        with suppress(OSError):  # it does not exist, or its disk has become read-only
            temporary.unlink()


@contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    """Yield a descriptor of a directory. Until it is flushed, a power failure may lose the name of a new file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, with sorted keys."""
    write(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON-lines file; none if there is no file. A process may be appending to it."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
