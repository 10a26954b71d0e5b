"""Atomic writes of files, and JSON lines."""

import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lumen.core.errors import Mistake
from lumen.core.guards import verify_place
from lumen.core.readers import parse_line

DRAFTS = ".lumen-*.part"
ORPHAN_SECONDS = 86400  # a draft that nobody has written to for so long belongs to a killed process


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of a draft in the same directory, and rename it to `path` at the end of the context.

    The draft is flushed to disk before the rename, so a reader sees the old file or the complete new one. Its name is
    unique among the machines that share the directory.

    Raises:
        Mistake: The file cannot be written, such as on a full disk.
        RunMissing: Its run directory was moved or removed.
    """
    draft = path.with_name(f".lumen-{os.uname().nodename}-{secrets.token_hex(8)}.part")
    verify_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path.parent, ORPHAN_SECONDS)
        yield draft
        flush(draft)
        os.replace(draft, path)
        with suppress(OSError):  # some network file systems cannot flush a directory
            flush(path.parent)
    except OSError as error:
        verify_place(path)
        reason = error.strerror or error
        raise Mistake(
            f"{path} could not be written: {reason}; make room, or choose another directory with runs=DIR."
        ) from None
    finally:
        with suppress(OSError):  # it does not exist, or its disk has become read-only
            draft.unlink()


def flush(path: Path) -> None:
    """Flush a file to disk, or the names in a directory: a power failure may lose those of new files until then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_drafts(directory: Path, seconds: float = -math.inf) -> None:
    """Remove drafts of killed processes: those last written so many seconds ago, or all, if none can be alive."""
    for draft in directory.glob(DRAFTS):
        with suppress(OSError):  # another process has removed or renamed it
            if time.time() - draft.stat().st_mtime > seconds:
                draft.unlink()


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, with sorted keys."""
    write(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the intact lines of a JSON-lines file; none if there is no file. A process may be appending to it."""
    return [record for record in map(parse_line, _read_lines(path)) if record is not None]


def find_damaged_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that `read_jsonl` leaves out, except for a last one that is being written."""
    return [number for number, line in enumerate(_read_lines(path), 1) if parse_line(line) is None]


def _read_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that end with a line break."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
