"""Feature extraction shared by all backbones: image sizes, layer selection, captured outputs, normalisation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig, BadSize


def resize_to_multiple(image: Float[Tensor, "b 3 H W"], step: int, fit: bool, name: str) -> Float[Tensor, "b 3 h w"]:
    """Return an image whose sides are multiples of `step` pixels; such an image is returned unchanged.

    Args:
        fit: Resize each side to its nearest multiple, bilinear and antialiased: 512 to 518 for a patch of 14. A side
            changes by at most half a patch. If False, other sizes are an error.
        name: Name of the backbone, for the message.

    Raises:
        BadSize: A side is not a multiple, and `fit` is False.
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
            "choose such a size, or backbone.fit=true to have images resized for the backbone."
        )
    size = [max(int(side / step + 0.5), 1) * step for side in sides]
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def resize_to_size(
    image: Float[Tensor, "b 3 H W"], size: tuple[int, int], fit: bool, name: str
) -> Float[Tensor, "b 3 h w"]:
    """Return an image at the one size that a network takes; such an image is returned unchanged.

    Args:
        size: Height and width in pixels.
        fit: Resize other images, bilinear and antialiased. If False, they are an error.
        name: Name of the backbone, for the message.

    Raises:
        BadSize: The image has another size, and `fit` is False.
    """
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    if not fit:
        raise BadSize(
            f"{name} takes images of {size[0]} x {size[1]} pixels alone, not {height} x {width}; choose that size, or "
            "backbone.fit=true to have images resized for the backbone."
        )
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def select_layers(layer: int | Iterable[int], depth: int, name: str) -> list[int]:
    """Return layer numbers from 0, ascending and without repetition.

    Args:
        layer: One layer or several; -1 is the last.
        depth: Number of layers of the network.
        name: Name of the backbone, for the message.

    Raises:
        BadConfig: No layer was chosen, or the network has no such layer.
    """
    layers = [layer] if isinstance(layer, int) else list(layer)
    for index in layers:
        if not -depth <= index < depth:
            raise BadConfig(f"{name} has layers 0 to {depth - 1} (-1 is the last), not {index}; choose one of those.")
    if not layers:
        raise BadConfig(f"{name} needs a layer; choose one of 0 to {depth - 1}, or several.")
    return sorted({index % depth for index in layers})


class _LastOutputCaptured(Exception):
    """End of a forward pass whose remaining modules are not needed."""


@contextmanager
def capture_outputs(modules: list[nn.Module], inputs: bool = False) -> Iterator[list[Tensor]]:
    """Capture the outputs of modules in the forward pass that runs inside the context.

    The forward pass ends at the last of the modules. It is the library's own, so the values are too. All hooks are
    removed on exit, so a network may be shared.

    Args:
        modules: Modules in the order in which they run.
        inputs: Capture the first input of each module instead.
    """
    captured = []

    def capture(module: nn.Module, *values: Tensor | tuple) -> None:
        value = values[-1]  # output of a module, or the tuple of its inputs
        captured.append(value[0] if isinstance(value, tuple) else value)
        if len(captured) == len(modules):
            raise _LastOutputCaptured

    register = "register_forward_pre_hook" if inputs else "register_forward_hook"
    handles = [getattr(module, register)(capture) for module in modules]
    try:
        yield captured
    except _LastOutputCaptured:
        pass
    finally:
        for handle in handles:
            handle.remove()


class Normalization(nn.Module):
    """Normalisation of an image to the statistics of a model card: (x - mean) / std of values in [0, 1]."""

    def __init__(self, mean: Iterable[float], std: Iterable[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the normalised image; the argument is in [-1, 1]."""
        return ((image + 1) / 2 - self.mean) / self.std


def tokens_to_map(tokens: Float[Tensor, "b n c"], grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return patch tokens as a feature map of h × w cells; tokens are ordered row by row."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
