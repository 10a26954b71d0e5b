"""The label map of the data set: the class of every pixel, as its annotators gave it."""

from hashlib import sha256
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE, Batch, Conditioning
from lumen.core.registry import conditionings


@conditionings.register
class SegMap(Conditioning):
    """Labels without an order: no class is nearer to another because its id is.

    Args:
        form: "channels" is a channel per class, 1 on its pixels and 0 elsewhere; "colours" is one picture, with a
            colour per class. A pixel without a class is 0 in every channel, which is black.
    """

    def __init__(self, form: Literal["channels", "colours"] = "channels", *, classes: tuple[str, ...]):
        super().__init__()
        self.form, self.channels = form, len(classes) if form == "channels" else 3
        self.identity = {"label set": sha256("\n".join(classes).encode()).hexdigest()[:16]}
        self.register_buffer("palette", palette(len(classes)), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "b k H W"]:
        """
        Raises:
            BadSample: the images have no labels.
        """
        if batch.mask is None:
            raise BadSample(
                f"'{batch.id[0]}' is a photo without labels, and conditioning=segmap shows labels; name a conditioning "
                "that looks at the photo itself, such as hed or neural_layout."
            )
        if self.form == "channels":
            ids = torch.arange(self.channels, device=batch.mask.device)
            return (batch.mask[:, None] == ids[:, None, None]).float()
        ids = torch.where(batch.mask == IGNORE, len(self.palette) - 1, batch.mask)
        return self.palette[ids].permute(0, 3, 1, 2).contiguous()

    def visualize(self, layout: Float[Tensor, "b k H W"]) -> Float[Tensor, "b 3 H W"]:
        return layout if self.form == "colours" else torch.einsum("bkhw,kc->bchw", layout, self.palette[:-1])


def palette(classes: int) -> Float[Tensor, "n 3"]:
    """A colour in [0, 1] for each class, and last, for what has none, black.

    Source: Pascal VOC's VOClabelcolormap.m: the bits of a number go in turn to red, green and blue, the lowest to the
    highest of each, so that small numbers are far apart. Its 0 is black; id i has its colour i + 1.
    """
    number = torch.tensor([*range(1, classes + 1), 0])
    bits = number[:, None, None] >> (3 * torch.arange(8)[:, None] + torch.arange(3)) & 1
    return (bits * 2 ** torch.arange(7, -1, -1)[:, None]).sum(1) / 255
