"""HED edges (Xie and Tu 2015): soft edges by a network trained on object outlines, as in ControlNet's annotator."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.paths import user_path
from lumen.core.registry import conditionings
from lumen.features.hed import CONTROLNET_FILE, load_hed
from lumen.features.pretrained import resolve_weights


@conditionings.register
class HolisticEdges(Conditioning):
    """Edge probability of each pixel, in [0, 1].

    Args:
        weights: ControlNet's ControlNetHED.pth as a file, in a folder or under a hub id; the folder of another HED;
            or "scenes".
        revision: Commit, tag or branch of a hub id; None is its main branch.

    Raises:
        WeightsMissing: The weights do not exist or cannot be read.
    """

    channels = 1

    def __init__(self, weights: str = "lllyasviel/Annotators", revision: str | None = None):
        super().__init__(hed=load_hed(_resolve_path(weights, revision)))

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b 1 H W"]:
        """Return the edges of each image, always in fp32 and rounded to bytes as in an image file."""
        with torch.autocast(batch.image.device.type, enabled=False):
            return self.networks["hed"](batch.pixels.float())[:, None]


def _resolve_path(weights: str, revision: str | None) -> Path:
    """Return the file or folder of the weights."""
    file = user_path(weights)
    if file.is_file():
        return file
    path = resolve_weights(weights, "hed", None, revision, [CONTROLNET_FILE])
    if path is None:
        raise WeightsMissing(f"an untrained hed finds no edges; give {CONTROLNET_FILE}, a folder, a hub id, or scenes.")
    return path
