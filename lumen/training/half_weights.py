"""Weights of a run in half precision, in a file without training state that is small enough to be shipped."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lumen.core.files import write
from lumen.core.readers import explain_damage
from lumen.training import checkpoint_io

FILE = "weights.safetensors"  # in the place of a run's checkpoints
BASIS = "conditioning."  # beginning of the names of tensors that stay in float32: layouts shall be those of training
HEADER = "lumen"
REMEDY = "install LUMEN again"


def convert_checkpoint(checkpoint: Path, directory: Path) -> None:
    """Write the weights of a checkpoint of a run without averaged weights, and what verifies that they fit."""
    content = checkpoint_io.read(checkpoint)
    state = content["state_dict"]
    tensors = {name: _halve(name, value) for name, value in state.items() if isinstance(value, Tensor)}
    header = {key: content[key] for key in ("frozen", "lumen", "global_step") if key in content}
    header["state"] = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    write(directory / FILE, save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def read_halves(path: Path) -> dict[str, Any]:
    """Return what `convert_checkpoint` wrote, in the form of a checkpoint.

    Raises:
        BadFile: It is damaged.
    """
    with explain_damage(path, REMEDY), safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
        tensors = {name: file.get_tensor(name).float() for name in list(file.keys())}
        return header | {"state_dict": tensors | header.pop("state")}


def _halve(name: str, tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if name.startswith(BASIS) else torch.float16).contiguous()
