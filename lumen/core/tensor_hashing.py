"""Hashes of tensors and networks."""

import hashlib
from itertools import chain
from typing import Any

import torch
from torch import nn


def hash_tree(tree: Any) -> str:
    """Return 16 hex digits that change with any bit of nested tensors and plain values."""
    state = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            state.update(f"{node.dtype}{tuple(node.shape)}".encode())
            state.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(node, dict):
            add(list(node.items()))
        elif isinstance(node, list | tuple):
            state.update(f"[{len(node)}".encode())
            for item in node:
                add(item)
        else:
            state.update(f"{node!r},".encode())

    add(tree)
    return state.hexdigest()[:16]


def fingerprint(network: nn.Module) -> str:
    """Return 16 hex digits of SHA-256 over every parameter and buffer: name, shape, type and bytes.

    A cast changes the fingerprint, because it changes the features. A move to another device does not.
    """
    state = hashlib.sha256()
    for name, tensor in sorted(chain(network.named_parameters(), network.named_buffers())):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()[:16]
