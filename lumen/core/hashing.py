"""Hashes of plain values and files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def hash_json(content: Any) -> str:
    """Return 16 hex digits of SHA-256 over plain values. Values that JSON has no type for count by their text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
