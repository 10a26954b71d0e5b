"""Temporary replacement of submodules."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConstantOutput(nn.Module):
    """Module that returns a known output, whatever its input.

    Args:
        output: Output of the replaced module; a single row is expanded to the batch.
    """

    def __init__(self, output: Float[Tensor, "b ..."]):
        super().__init__()
        self.output = output

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return self.output.expand(len(x), *self.output.shape[1:])


class FirstPart(nn.Module):
    """Module that runs another one on the first of the equal parts of a batch, and repeats the output for all parts.

    Args:
        parts: Number of parts, such as the two branches of guidance.
    """

    def __init__(self, module: nn.Module, parts: int = 2):
        super().__init__()
        self.module, self.parts = module, parts

    def forward(self, x: Float[Tensor, "b ..."], **arguments: Any) -> Float[Tensor, "b ..."]:
        return torch.cat([self.module(x[: len(x) // self.parts], **arguments)] * self.parts)


@contextmanager
def replace_submodules(network: nn.Module, replacements: dict[str, nn.Module]) -> Iterator[None]:
    """Replace submodules within the context.

    The network's own forward runs, so all other numbers stay the same. The submodules are restored after an error too.

    Args:
        replacements: New submodules by dotted name.
    """
    parents = [network.get_submodule(name.rpartition(".")[0]) for name in replacements]
    names = [name.rpartition(".")[2] for name in replacements]
    originals = [parent.get_submodule(name) for parent, name in zip(parents, names, strict=True)]
    try:
        for parent, name, module in zip(parents, names, replacements.values(), strict=True):
            setattr(parent, name, module)
        yield
    finally:
        for parent, name, module in zip(parents, names, originals, strict=True):
            setattr(parent, name, module)
