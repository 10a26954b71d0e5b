"""Commit of the checkout that LUMEN runs from."""

import os
import subprocess
from pathlib import Path


def read_commit() -> str | None:
    """Return the commit of a checkout, marked "-dirty" where files differ; None for an installed package."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return os.fsdecode(subprocess.run(["git", "-C", root, *words], capture_output=True, check=True).stdout).strip()

    try:
        # An environment inside another repository is no checkout of this one.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
