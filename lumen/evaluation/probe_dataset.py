"""Data set for linear probes: the features of layouts in grid cells, and the image content of the same cells."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lumen.core.interfaces import IGNORE, Batch
from lumen.core.random import generator
from lumen.core.resize import resize

CELLS_PER_IMAGE = 64  # sampled at random from grids with more

Key = tuple[str, int]  # name of a layout and its seed
Layout = Callable[[Batch], Tensor]


@dataclass
class Cells:
    """Cells of images, one image after another.

    Attributes:
        features: Content of each layout in each cell.
        targets: Content of the image in each cell, by the names of `cell_targets`.
        image_index: Image that each cell belongs to.
        num_images: Images together.
    """

    features: dict[Key, Float[Tensor, "n _"]]
    targets: dict[str, Float[Tensor, "n _"]]
    image_index: Int[Tensor, " n"]
    num_images: int

    def select_labelled(self, key: Key, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, targets and image index of the cells whose target of this name is known."""
        target = self.targets[name]
        known = ((target != IGNORE) & target.isfinite()).all(1)
        return self.features[key][known], target[known], self.image_index[known]


@torch.no_grad()
def collect_cells(
    batches: Iterable[Batch], layouts: dict[Key, Layout], grid: tuple[int, int], classes: int, device: str
) -> Cells:
    """Return a random sample of the cells of every image, the same cells for all layouts.

    Args:
        grid: Rows and columns of cells in an image.
        classes: Number of classes of the label maps.
        device: Device on which layouts are computed; the cells stay on the CPU.
    """
    features, targets, image_index, num_images = defaultdict(list), defaultdict(list), [], 0
    for batch in batches:
        order = [torch.randperm(grid[0] * grid[1], generator=generator("leakage", name)) for name in batch.id]
        sample = torch.stack(order)[:, None, :CELLS_PER_IMAGE]
        for name, maps in cell_targets(batch, grid, classes).items():
            targets[name].append(_gather(maps, sample))
        batch = batch.to(device)
        for key, layout in layouts.items():
            features[key].append(_gather(unshuffle_to_grid(layout(batch).float(), grid).cpu(), sample))
        image_index.append(torch.arange(num_images, num_images + len(sample)).repeat_interleave(sample.shape[2]))
        num_images += len(sample)
    joined = ({name: torch.cat(parts) for name, parts in lists.items()} for lists in (features, targets))
    return Cells(*joined, torch.cat(image_index), num_images)


def unshuffle_to_grid(layout: Float[Tensor, "b c H W"], grid: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Return a layout on a coarser grid, all values within a cell as channels (pixel unshuffle).

    A layout whose sides are no multiples of the grid's is first enlarged to the next multiple.
    """
    factor = max(-(-side // cells) for side, cells in zip(layout.shape[-2:], grid, strict=True))
    return F.pixel_unshuffle(resize(layout, (grid[0] * factor, grid[1] * factor)), factor)


def cell_targets(batch: Batch, grid: tuple[int, int], classes: int) -> dict[str, Float[Tensor, "b _ h w"]]:
    """Return the mean colour, mean gradient, mean log depth and commonest class of every cell.

    An unknown depth is NaN. A cell that mostly belongs to no class has the label IGNORE.
    """
    label = class_shares(batch.mask, grid, classes).argmax(1, keepdim=True)
    return {
        "colour": F.adaptive_avg_pool2d(batch.image, grid),
        "edges": F.adaptive_avg_pool2d(gradient_magnitude(batch.image), grid),
        "depth": mean_log_depth(batch, grid),
        "label": label.where(label < classes, IGNORE).float(),
    }


def class_shares(mask: Int[Tensor, "b H W"], grid: tuple[int, int], classes: int) -> Float[Tensor, "b k h w"]:
    """Return the share of every class in every cell, and last the share of pixels without a class.

    Pixels are counted by index, so no array of classes x pixels is allocated.
    """
    (b, *sides), (h, w) = mask.shape, grid
    y, x = (torch.arange(n, device=mask.device) * cells // n for n, cells in zip(sides, grid, strict=True))
    index = ((y[:, None] * w + x) * (classes + 1) + mask.where(mask != IGNORE, classes)).flatten(1)
    counts = torch.zeros(b, h * w * (classes + 1), device=mask.device)
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    counts = counts.view(b, h, w, classes + 1).permute(0, 3, 1, 2)
    return counts / counts.sum(1, keepdim=True)


def gradient_magnitude(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1 H W"]:
    """Return the gradient of the luminance (Rec. 601, of [-1, 1]) per pixel, by Sobel filters."""
    grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    sobel = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    slopes = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    return slopes.norm(dim=1, keepdim=True)


def mean_log_depth(batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b 1 h w"]:
    """Return the mean log depth of each cell; NaN if fewer than half of its pixels have a depth, as in the sky."""
    unknown = torch.full(batch.image.shape[-2:], torch.nan)
    planes = [unknown if plane is None else plane for plane in batch.extra.get("depth", [None] * len(batch.id))]
    log = torch.stack(planes)[:, None].log()
    known = log.isfinite()
    share, total = (F.adaptive_avg_pool2d(x, grid) for x in (known.float(), log.where(known, 0)))
    return (total / share).where(share >= 0.5, torch.nan)


def _gather(maps: Float[Tensor, "b c h w"], sample: Int[Tensor, "b 1 n"]) -> Float[Tensor, "b*n c"]:
    flat = maps.flatten(2)
    return flat.gather(2, sample.expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)
