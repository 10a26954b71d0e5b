"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """Return a path with the home directory in place of a leading ~; a name such as ~draft.png stays as it is."""
    return Path(os.path.expanduser(path))
