"""Colour: mean colours of generated images against those of their styles and of their references."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics


@metrics.register
class ColourDistance(Metric):
    """Distance of mean colours from the style that an image was made from, and from its reference.

    A rearranger should take colours from the style and places from the mask. If masks tell colours, generated images
    are as near to the reference as to the style. The distance is the mean over RGB of the absolute difference of two
    images' mean colours, as a share of the range. The metric is that to the style, and its parts are both. Where a task
    has no styles, the reference stands for them.
    """

    display_name = "colour distance"
    output_kind = "images"
    higher_is_better = False

    def __init__(self):
        super().__init__(nn.Identity())

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b n 2"]:
        """Return the distance to the style and to the reference."""
        target = batch.image[:, None].float()
        style = torch.stack(batch.extra["style"]).to(generated) if "style" in batch.extra else target
        colours = generated.mean((3, 4))
        pairs = [(colours - other.mean((3, 4))).abs().mean(2) / 2 for other in (style, target)]
        return torch.stack(pairs, dim=2).double()

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 2"]) -> Float[Tensor, ""]:
        """Return the mean distance to the style over images."""
        return scores.double().mean(0)[0]

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return the names of both distances."""
        return ["style", "reference"]

    def breakdown(self, scores: Float[Tensor, "b 2"]) -> dict[str, Float[Tensor, ""]]:
        """Return both distances."""
        return dict(zip(self.columns(()), scores.double().mean(0), strict=True))
