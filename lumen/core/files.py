"""Files that are whole or not there: written beside their name, flushed, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lumen.core.errors import Mistake


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, so the last step is a rename: a reader sees the old file or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        with suppress(OSError), _open(path.parent) as folder:  # some network file systems cannot
            os.fsync(folder)
    except OSError as error:
        reason = error.strerror or error
        raise Mistake(
            f"{path} could not be written: {reason}; make room or choose another folder (runs=DIR)."
        ) from None
    finally:
        with suppress(OSError):  # there is none, or its disk has become read-only
            draft.unlink()


@contextmanager
def _open(folder: Path) -> Iterator[int]:
    """A folder as something to flush: a new name in it may be lost with the power, though the file is not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes) -> None:
    with beside(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file that were written to their end; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
