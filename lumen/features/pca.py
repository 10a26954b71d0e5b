"""Principal component analysis (PCA) of dense features: axes, projection, and the basis file."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from scipy.linalg import eigh
from torch import Tensor

from lumen.core.errors import BasisMismatch
from lumen.core.files import write
from lumen.core.resize import resize

BASIS_TENSORS = ("mean", "axes", "variance", "scale")


@dataclass
class Basis:
    """PCA basis: the k strongest directions of c-dimensional features, and what they were fitted on.

    Attributes:
        mean: Mean of the features.
        axes: Orthonormal columns, strongest first.
        variance: Variance along each axis, in squared feature units.
        scale: Divisor of each coordinate, in feature units.
        metadata: Identity of the backbone, fingerprint of the data set, seed, number of vectors, and the share of the
            total variance that the k axes explain.
    """

    mean: Float[Tensor, " c"]
    axes: Float[Tensor, "c k"]
    variance: Float[Tensor, " k"]
    scale: Float[Tensor, " k"]
    metadata: dict

    def save(self, path: Path) -> None:
        """Write a safetensors file with the metadata in its header."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in BASIS_TENSORS}
        write(path, save(tensors, metadata={"lumen": json.dumps(self.metadata, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path | str) -> "Basis":
        """Read a file that `save` wrote.

        Raises:
            BasisMismatch: The file is missing or is not a basis.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = json.loads(file.metadata()["lumen"])
                return cls(*(file.get_tensor(name) for name in BASIS_TENSORS), metadata)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BasisMismatch(
                f"{path} is not a layout basis ({error}); give the basis.safetensors of a run directory."
            ) from None

    def verify(self, identity: dict[str, str], origin: str) -> None:
        """Check that the basis belongs to a backbone.

        Args:
            identity: `Backbone.identity` of that backbone.
            origin: Subject of the message, such as the path of the basis.

        Raises:
            BasisMismatch: The basis was fitted on features of another backbone.
        """
        if self.metadata.get("scaling", "global") != "global":
            raise BasisMismatch(f"{origin} was written by an older version of LUMEN in another scale; fit it again.")
        expected = self.metadata["backbone"]
        changed = sorted(key for key in expected.keys() | identity.keys() if expected.get(key) != identity.get(key))
        if changed:
            others, own = ({key: side.get(key) for key in changed} for side in (expected, identity))
            raise BasisMismatch(
                f"{origin} was fitted on other features: the basis has {others}, this backbone {own}; "
                "choose the backbone of the basis, or fit it again."
            )


def principal_axes(cov: Float[Tensor, "c c"], k: int) -> tuple[Float[Tensor, "c k"], Float[Tensor, " k"]]:
    """Return the k orthonormal directions of largest variance, strongest first.

    An eigenvector is defined only up to sign, and a flipped axis is a different layout. The largest entry of every
    axis is therefore made positive, so equal features give equal layouts on every machine.

    Returns:
        Axes (c, k), one per column, and their variances (k,) in squared feature units.

    Raises:
        ValueError: `k` is not between 1 and c.

    Source: The sign rule of sklearn.utils.extmath.svd_flip(u_based_decision=False).
    """
    if not 1 <= k <= len(cov):
        raise ValueError(f"{k} components of {len(cov)}-channel features do not exist; choose 1 to {len(cov)}.")
    if cov.device.type == "cpu":
        # LAPACK can compute the last k eigenvectors alone; torch computes all, which takes three times as long.
        values, vectors = map(torch.from_numpy, eigh(cov.numpy(), subset_by_index=(len(cov) - k, len(cov) - 1)))
    else:
        values, vectors = torch.linalg.eigh(cov)
    axes = vectors[:, -k:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return axes * largest.sign(), values[-k:].flip(0).clamp(min=0)


def project(
    maps: list[Tensor], mean: Float[Tensor, " c"], axes: Float[Tensor, "c k"], scale: Float[Tensor, " k"]
) -> Float[Tensor, "b k h w"]:
    """Return the coordinates of the joint feature along the axes, at the resolution of the finest map.

    With the axes as rows of P, split into one block P_i per map f_i, the result is

        P (cat_i(up(f_i)) - mean) / scale  =  (sum_i up(P_i f_i) - P mean) / scale

    because resizing and projection are both linear. Each map is projected at its own resolution, and only k channels
    are resized. This takes 40 to 55 times less work than the left side.

    Args:
        maps: Maps (b, c_i, h_i, w_i), the finest last; the c_i add up to c.
    """
    axes = axes / scale
    offset = mean @ axes
    layout = 0
    for feature_map, weight in zip(maps, axes.split([m.shape[1] for m in maps]), strict=True):
        coordinates = F.conv2d(feature_map.to(axes), weight.T[:, :, None, None])
        layout = layout + resize(coordinates, maps[-1].shape[-2:])
    return layout - offset[:, None, None]


def gather_vectors(maps: list[Tensor], cells: Int[Tensor, "b n"]) -> Float[Tensor, "b*n c"]:
    """Return the joint feature vectors at n cells of each image. Only these cells are interpolated.

    Args:
        maps: Maps (b, c_i, h_i, w_i), the finest last.
        cells: Flat indices into the finest map.
    """
    h, w = maps[-1].shape[-2:]
    y, x = cells.div(w, rounding_mode="floor"), cells % w
    # At the centre of a cell, grid_sample with border padding returns exactly what resize() puts into that cell.
    centres = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1).to(maps[-1].device, torch.float32)
    vectors = [
        F.grid_sample(m.float(), centres[:, None], mode="bilinear", padding_mode="border", align_corners=False)
        for m in maps
    ]
    return torch.cat(vectors, dim=1)[:, :, 0].transpose(1, 2).flatten(0, 1)
