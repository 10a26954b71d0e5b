"""Provenance of a run: command, commit, versions, hardware, data."""

import os
import platform
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lumen.config.components import used_components
from lumen.config.experiment import dump
from lumen.config.schema import Config
from lumen.core.hashing import hash_json

LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "timm", "open_clip_torch", "wandb", "omegaconf")


def provenance(verb: str, what: str, config: Config, facts: dict[str, str]) -> dict[str, Any]:
    """Return what a reader needs to verify or repeat a run.

    Args:
        verb: Command that made the run.
        what: Experiment or run that the command names.
        facts: Further entries, such as the identity of the data.
    """
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    flags = [f"{key}={'null' if value is None else value}" for key, value in config.flags.items()]
    return {
        "command": shlex.join(["lumen", verb, what, *flags]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("lumen", *LIBRARIES)},
        "hardware": {"gpus": devices, "cpus": os.cpu_count(), "machine": platform.machine()},
        "config": hash_json(dump(config)),
        **facts,
    }


def describe(config: Config) -> str:
    """Return what a run learns from, such as "neural_layout of dino"."""
    used = used_components(dump(config))
    learnt = used.get("conditioning", used["task"])
    return f"{learnt} of {used['backbone']}" if "backbone" in used else learnt


def _commit() -> str | None:
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
