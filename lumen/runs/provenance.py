"""Provenance of a run: command, commit, versions, hardware, data."""

import os
import platform
import shlex
from importlib.metadata import version
from typing import Any

import torch

from lumen.config.components import used_components
from lumen.config.experiment import dump
from lumen.config.schema import DEFAULT_GENERATOR, Config
from lumen.core.commit import read_commit
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
        "commit": read_commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("lumen", *LIBRARIES)},
        "hardware": {"gpus": devices, "cpus": os.cpu_count(), "machine": platform.machine()},
        "config": hash_json(dump(config)),
        **facts,
    }


def describe(config: Config) -> str:
    """Return what a run learns from, such as "neural_layout of dino"."""
    used = used_components(dump(config))
    learnt = used.get("conditioning", used["task"])
    generator = [used["generator"]] if used.get("generator", DEFAULT_GENERATOR) != DEFAULT_GENERATOR else []
    return " of ".join([*generator, learnt, *([used["backbone"]] if "backbone" in used else [])])
