"""Colours of classes, in pictures of label maps."""

import torch
from jaxtyping import Float
from torch import Tensor


def class_palette(num_classes: int) -> Float[Tensor, "n 3"]:
    """Return a colour in [0, 1] for each class, and last black for pixels without a class.

    The bits of a number are dealt in turn to red, green and blue, its lowest bits to the highest bits of the colours.
    So small numbers have very different colours. Number 0 is black; class i has the colour of i + 1.

    Source: Pascal VOC's VOClabelcolormap.m.
    """
    number = torch.tensor([*range(1, num_classes + 1), 0])
    bits = number[:, None, None] >> (3 * torch.arange(8)[:, None] + torch.arange(3)) & 1
    return (bits * 2 ** torch.arange(7, -1, -1)[:, None]).sum(1) / 255
