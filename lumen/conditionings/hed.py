"""HED edges (Xie and Tu 2015): soft, by a network that was taught outlines, as ControlNet's annotator draws them."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.registry import conditionings
from lumen.features import hed as edges
from lumen.features.pretrained import folder


@conditionings.register
class HolisticEdges(Conditioning):
    """How likely each pixel lies on an edge, in [0, 1].

    Args:
        weights: ControlNet's ControlNetHED.pth as a file, in a folder or under a hub id; the folder of another
            HED; or "scenes".
        revision: commit, tag or branch of a hub id; None is its main branch.
    """

    channels = 1

    def __init__(self, weights: str = "lllyasviel/Annotators", revision: str | None = None):
        super().__init__(hed=edges.load(_found(weights, revision)))

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        with torch.autocast(batch.image.device.type, enabled=False):
            return self.networks["hed"](batch.pixels.float())[:, None]


def _found(weights: str, revision: str | None) -> Path:
    """
    Raises:
        WeightsMissing: there is no such file or folder, and the hub has none either.
    """
    file = Path(weights).expanduser()
    if file.is_file():
        return file
    path = folder(weights, "edges", None, revision, [edges.FILE])
    if path is None:
        raise WeightsMissing(f"an untrained hed finds no edges; give {edges.FILE}, a folder, a hub id, or scenes.")
    return path
