"""Label map: the annotated class of every pixel, from the data set."""

from hashlib import sha256
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE, Batch, Conditioning
from lumen.core.palette import class_palette
from lumen.core.registry import conditionings


@conditionings.register
class SegMap(Conditioning):
    """Label map that gives classes no order: neighbouring ids are no more alike than others.

    Args:
        form: "channels": one channel per class, 1 on its pixels and 0 elsewhere. "colours": an RGB image with one
            colour per class. A pixel without a class is 0 in every channel, which is black.
        classes: Class names of the data set, in the order of their ids.
    """

    uses_labels = True

    def __init__(self, form: Literal["channels", "colours"] = "channels", *, classes: tuple[str, ...]):
        super().__init__()
        self.form, self.channels = form, len(classes) if form == "channels" else 3
        self.identity = {"label set": sha256("\n".join(classes).encode()).hexdigest()[:16]}
        self.register_buffer("palette", class_palette(len(classes)), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "b k H W"]:
        """Return the label maps as channels or colours.

        Raises:
            BadSample: The images have no labels.
        """
        if batch.mask is None:
            raise BadSample(
                f"'{batch.id[0]}' is a photo without labels, and conditioning=segmap needs labels; choose a "
                "conditioning that is computed from the photo itself, such as hed or neural_layout."
            )
        if self.form == "channels":
            ids = torch.arange(self.channels, device=batch.mask.device)
            return (batch.mask[:, None] == ids[:, None, None]).float()
        ids = torch.where(batch.mask == IGNORE, len(self.palette) - 1, batch.mask)
        return self.palette[ids].permute(0, 3, 1, 2).contiguous()

    def visualize(self, layout: Float[Tensor, "b k H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the label maps in colours, RGB in [0, 1]."""
        return layout if self.form == "colours" else torch.einsum("bkhw,kc->bchw", layout, self.palette[:-1])
