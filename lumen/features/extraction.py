"""What every backbone does around its network: fit the image, choose the layers, tap the outputs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig, BadSize


def fitted(image: Float[Tensor, "b 3 H W"], step: int, fit: bool, name: str) -> Float[Tensor, "b 3 h w"]:
    """The image with sides that are multiples of `step` pixels, as it is where they are already.

    Args:
        fit: resize each side to its nearest multiple (512 to 518 for a patch of 14), by at most half
            a cell, bilinear and antialiased; otherwise such an image is an error.

    Raises:
        BadSize: a side is no multiple, and `fit` is off.
    """
    sides = tuple(image.shape[-2:])
    if all(side % step == 0 for side in sides) and min(sides) > 0:
        return image
    if not fit:
        below = [max(side // step, 1) * step for side in sides]
        above = [-(-side // step) * step for side in sides]
        raise BadSize(
            f"{name} takes heights and widths that are multiples of {step}, not {sides[0]} x {sides[1]}; "
            f"the nearest are {below[0]} x {below[1]} and {above[0]} x {above[1]}: "
            "resize the images to one of them, or give fit=true and it is done here."
        )
    size = [max(int(side / step + 0.5), 1) * step for side in sides]
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def chosen(layer: int | Iterable[int], depth: int, name: str) -> list[int]:
    """Block numbers from 0, ascending and each once; -1 is the last block.

    Raises:
        BadConfig: the network has no such block.
    """
    wanted = [layer] if isinstance(layer, int) else list(layer)
    for index in wanted:
        if not -depth <= index < depth:
            raise BadConfig(f"{name} has layers 0 to {depth - 1} (-1 is the last), not {index}; name one of those.")
    if not wanted:
        raise BadConfig(f"{name} needs a layer: one of 0 to {depth - 1}, or several.")
    return sorted({index % depth for index in wanted})


class _Enough(Exception):
    """The last output that was asked for is there; the rest of the forward pass would be wasted."""


@contextmanager
def outputs(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What `modules` put out in the forward pass run inside, which ends at the last of them.

    They are given in the order in which they run. The library's own forward does the work, so the
    numbers are its own; no hook outlives the block, so a network may be shared.
    """
    found = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if len(found) == len(modules):
            raise _Enough

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


class Normalise(nn.Module):
    """From an image in [-1, 1] to what a model card asks for: (x - mean) / std of one in [0, 1]."""

    def __init__(self, mean: Iterable[float], std: Iterable[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        return ((image + 1) / 2 - self.mean) / self.std


def grid(tokens: Float[Tensor, "b n c"], shape: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Patch tokens, row by row as they were cut, back in their h w cells."""
    return tokens.unflatten(1, shape).permute(0, 3, 1, 2).contiguous()
