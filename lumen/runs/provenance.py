"""Provenance of a run: command, commit, versions, hardware, data."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lumen.config.experiment import dump
from lumen.config.schema import Config

LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "timm", "open_clip_torch", "wandb", "omegaconf")


def provenance(verb: str, what: str, config: Config, facts: dict[str, str]) -> dict[str, Any]:
    """What a reader needs to believe or repeat the run: code, versions, hardware, data."""
    import torch  # here, so that `lumen show` can name a folder without it

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(["lumen", verb, what, *(f"{k}={v}" for k, v in config.flags.items())]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("lumen", *LIBRARIES)},
        "hardware": {"gpus": devices, "cpus": os.cpu_count(), "machine": platform.machine()},
        "config": hashlib.sha256(json.dumps(dump(config), sort_keys=True).encode()).hexdigest()[:16],
        **facts,
    }


def _commit() -> str | None:
    """The commit of a checkout, with a mark where files differ from it; None for an installed package."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An environment within somebody's repository is not a checkout of this one.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
