"""Precision of saved networks: half precision in the file, float32 in memory."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from lumen.core.files import write


def save_half(network: PreTrainedModel, directory: Path) -> None:
    """Write a network of transformers in half precision, to be loaded in float32 by default."""
    network.half().save_pretrained(directory)
    declare_float32(directory)


def declare_float32(directory: Path) -> None:
    """Have transformers load a directory in float32 by default, as diffusers loads the networks beside it.

    transformers takes the type that config.json names, which is that of the file. A pipeline would mix both types.
    """
    path = directory / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
    write(path, json.dumps(content, indent=2) + "\n")  # in the order of the file, since labels are numbered texts
