"""Hashes of plain values, tensors, files and networks."""

import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn


def hash_json(content: Any) -> str:
    """16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(tree: Any) -> str:
    """16 hex digits that change with any bit of nested tensors and plain values."""
    state = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            state.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(part, dict):
            add(list(part.items()))
        elif isinstance(part, list | tuple):
            state.update(f"[{len(part)}".encode())
            for each in part:
                add(each)
        else:
            state.update(f"{part!r},".encode())

    add(tree)
    return state.hexdigest()[:16]


def fingerprint(network: nn.Module) -> str:
    """16 hex digits of SHA-256 over every parameter and buffer: name, shape, type and bytes.

    A cast changes it, as it changes the features; a move to another device does not.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(chain(network.named_parameters(), network.named_buffers())):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
