"""Reference: the image itself, which holds all that a layout could tell."""

from jaxtyping import Float
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings


@conditionings.register
class Reference(Conditioning):
    """The image itself, RGB in [0, 1]."""

    channels = 3

    def __init__(self):
        super().__init__()

    def forward(self, batch: Batch) -> Float[Tensor, "b 3 H W"]:
        """Return the images."""
        return (batch.image + 1) / 2
