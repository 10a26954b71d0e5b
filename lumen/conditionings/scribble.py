"""Scribble: strokes along the middle of labelled regions, as a hand would draw them."""

from hashlib import sha256

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE, Batch, Conditioning
from lumen.core.palette import class_palette
from lumen.core.ranges import Share
from lumen.core.registry import conditionings


@conditionings.register
class Scribble(Conditioning):
    """Strokes along the middle of each labelled region, with one channel per class.

    A pixel belongs to a stroke where no neighbour lies deeper inside its region, and where it lies at least `depth`
    times as deep as the deepest pixel of its class. Elsewhere all channels are 0.

    Args:
        depth: Share of the largest depth from which on strokes reach; a larger one leaves shorter strokes.
        classes: Class names of the data set, in the order of their ids.
    """

    uses_labels = True

    def __init__(self, depth: Share = 0.35, *, classes: tuple[str, ...]):
        super().__init__()
        self.depth, self.channels = depth, len(classes)
        self.identity = {"label set": sha256("\n".join(classes).encode()).hexdigest()[:16]}
        self.register_buffer("palette", class_palette(len(classes)), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "b k H W"]:
        """Return the strokes of each class.

        Raises:
            BadSample: The images have no labels.
        """
        if batch.mask is None:
            raise BadSample(
                f"'{batch.id[0]}' is a photo without labels, and conditioning=scribble needs labels; choose a "
                "conditioning that is computed from the photo itself, such as hed or neural_layout."
            )
        labels = torch.where(batch.mask == IGNORE, self.channels, batch.mask)
        depth = region_depth(labels)
        deepest = torch.zeros(len(labels), self.channels + 1, device=labels.device)
        deepest = deepest.scatter_reduce(1, labels.flatten(1), depth.flatten(1), "amax")
        limit = self.depth * deepest.gather(1, labels.flatten(1)).view_as(depth)
        is_stroke = (depth >= F.max_pool2d(depth, 3, 1, 1)) & (depth >= limit)
        ids = torch.arange(self.channels, device=labels.device)
        return ((labels[:, None] == ids[:, None, None]) & is_stroke[:, None]).float()

    def visualize(self, layout: Float[Tensor, "b k H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the strokes in the colours of their classes, RGB in [0, 1]."""
        return torch.einsum("bkhw,kc->bchw", layout, self.palette[:-1])


def region_depth(labels: Int[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
    """Return the steps from each pixel to the border of its region, in eight directions; the image ends at a border."""
    padded = F.pad(labels[:, None].float(), (1, 1, 1, 1), value=-1)
    inside = (F.max_pool2d(padded, 3, 1) == -F.max_pool2d(-padded, 3, 1)).float()
    depth = torch.ones_like(inside)
    while inside.any():
        depth += inside
        inside = 1 - F.max_pool2d(F.pad(1 - inside, (1, 1, 1, 1), value=1.0), 3, 1)
    return depth[:, 0]
