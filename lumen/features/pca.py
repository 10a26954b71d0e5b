"""Principal axes of features, the projection onto them, and the file they are kept in."""

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

TENSORS = ("mean", "axes", "variance", "scale")


@dataclass
class Basis:
    """The k strongest directions of c-dimensional features, and what they were fitted on."""

    mean: Float[Tensor, " c"]
    axes: Float[Tensor, "c k"]  # orthonormal columns, strongest first
    variance: Float[Tensor, " k"]  # along each axis, in squared feature units
    scale: Float[Tensor, " k"]  # coordinates are divided by it
    contract: dict  # backbone identity, data fingerprint, vectors, explained share of the variance

    def save(self, path: Path) -> None:
        """One small safetensors file; the contract stands in its header."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in TENSORS}
        write(path, save(tensors, metadata={"lumen": json.dumps(self.contract, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path | str) -> "Basis":
        try:
            with safe_open(path, "pt") as file:
                contract = json.loads(file.metadata()["lumen"])
                return cls(*(file.get_tensor(name) for name in TENSORS), contract)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BasisMismatch(
                f"{path} is no layout basis ({error}); give a basis.safetensors of a run folder."
            ) from None

    def check(self, identity: dict[str, str], origin: str) -> None:
        """
        Raises:
            BasisMismatch: it was fitted on features of another backbone; both sides are named.
        """
        if self.contract.get("scaling", "global") != "global":
            raise BasisMismatch(f"{origin} was written by an older LUMEN, in a scale of its own; fit anew.")
        mine = self.contract["backbone"]
        apart = sorted(key for key in mine.keys() | identity.keys() if mine.get(key) != identity.get(key))
        if apart:
            was, now = ({key: side.get(key) for key in apart} for side in (mine, identity))
            raise BasisMismatch(
                f"{origin} was fitted on other features: there {was}, here {now}; choose that backbone, or fit anew."
            )


def principal_axes(cov: Float[Tensor, "c c"], k: int) -> tuple[Float[Tensor, "c k"], Float[Tensor, " k"]]:
    """The k orthonormal directions of largest variance, strongest first.

    An eigenvector is defined only up to sign, and a flipped axis is a different layout, so the
    largest entry of every axis is made positive: the same features give the same layout everywhere.

    Returns:
        axes (c, k), one per column, and their variances (k,), in squared feature units.

    Raises:
        ValueError: `k` is not between 1 and c.

    Source: the sign rule of sklearn.utils.extmath.svd_flip(u_based_decision=False).
    """
    if not 1 <= k <= len(cov):
        raise ValueError(f"a layout of {k} components was asked of {len(cov)}-channel features; 1 to {len(cov)} exist.")
    if cov.device.type == "cpu":
        # LAPACK can leave out the others; torch asks it for all, which takes three times as long.
        values, vectors = map(torch.from_numpy, eigh(cov.numpy(), subset_by_index=(len(cov) - k, len(cov) - 1)))
    else:
        values, vectors = torch.linalg.eigh(cov)
    axes = vectors[:, -k:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return axes * largest.sign(), values[-k:].flip(0).clamp(min=0)


def project(
    maps: list[Tensor], mean: Float[Tensor, " c"], axes: Float[Tensor, "c k"], scale: Float[Tensor, " k"]
) -> Float[Tensor, "b k h w"]:
    """Coordinates of the joint features, at the finest map's resolution.

    Resizing and projecting are both linear, so every map is projected at its own resolution and
    only k channels are resized: P cat(up(f_i)) = sum up(P_i f_i), with 40 to 55 times less work.
    """
    axes = axes / scale
    offset = mean @ axes
    layout = 0
    for part, weight in zip(maps, axes.split([m.shape[1] for m in maps]), strict=True):
        flat = F.conv2d(part.to(axes), weight.T[:, :, None, None])
        layout = layout + resize(flat, maps[-1].shape[-2:])
    return layout - offset[:, None, None]


def vectors_at(maps: list[Tensor], cells: Int[Tensor, "b n"]) -> Float[Tensor, "b*n c"]:
    """The joint feature vectors of n cells of the finest map of each image, nothing else being resized.

    Args:
        cells: flat indices into the finest map.
    """
    h, w = maps[-1].shape[-2:]
    y, x = cells.div(w, rounding_mode="floor"), cells % w
    # grid_sample with border padding at a cell's centre is exactly what resize() puts into that cell.
    where = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1).to(maps[-1].device, torch.float32)
    picked = [
        F.grid_sample(m.float(), where[:, None], mode="bilinear", padding_mode="border", align_corners=False)
        for m in maps
    ]
    return torch.cat(picked, dim=1)[:, :, 0].transpose(1, 2).flatten(0, 1)
