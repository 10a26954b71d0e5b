"""Images cut into cells: what stands in each, and all that a layout says of it."""

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

CELLS = 64  # of an image; drawn at random where it has more

Key = tuple[str, int]  # a layout's name and its seed
Layout = Callable[[Batch], Tensor]


@dataclass
class Cells:
    """Cells of some images, one after another: what each layout says there, and what stands there."""

    numbers: dict[Key, Float[Tensor, "n _"]]
    truth: dict[str, Float[Tensor, "n _"]]  # by measure, as `shown` gives it
    owner: Int[Tensor, " n"]  # which image
    images: int

    def known(self, key: Key, measure: str) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers, truth and owner of the cells of which the truth is known."""
        truth = self.truth[measure]
        some = ((truth != IGNORE) & truth.isfinite()).all(1)
        return self.numbers[key][some], truth[some], self.owner[some]


@torch.no_grad()
def look(
    batches: Iterable[Batch], layouts: dict[Key, Layout], grid: tuple[int, int], classes: int, device: str
) -> Cells:
    """Some cells of every image, for all layouts the same."""
    numbers, truth, owner, images = defaultdict(list), defaultdict(list), [], 0
    for batch in batches:
        order = [torch.randperm(grid[0] * grid[1], generator=generator("leakage", name)) for name in batch.id]
        drawn = torch.stack(order)[:, None, :CELLS]
        for measure, maps in shown(batch, grid, classes).items():
            truth[measure].append(_rows(maps, drawn))
        batch = batch.to(device)
        for key, layout in layouts.items():
            numbers[key].append(_rows(in_cells(layout(batch).float(), grid).cpu(), drawn))
        owner.append(torch.arange(images, images + len(drawn)).repeat_interleave(drawn.shape[2]))
        images += len(drawn)
    joined = ({name: torch.cat(some) for name, some in parts.items()} for parts in (numbers, truth))
    return Cells(*joined, torch.cat(owner), images)


def in_cells(layout: Float[Tensor, "b c H W"], grid: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """A layout on a coarser grid with every number of a cell kept: some of it may be told by how they lie there.

    Where the sides are no multiples of the grid's, the layout is first enlarged to the next.
    """
    factor = max(-(-side // cells) for side, cells in zip(layout.shape[-2:], grid, strict=True))
    return F.pixel_unshuffle(resize(layout, (grid[0] * factor, grid[1] * factor)), factor)


def shown(batch: Batch, grid: tuple[int, int], classes: int) -> dict[str, Float[Tensor, "b _ h w"]]:
    """What stands in every cell: its mean colour, mean strength of edges, mean log depth, and commonest class.

    A depth that is not known is NaN, the class of a cell that mostly has none is IGNORE.
    """
    label = shares(batch.mask, grid, classes).argmax(1, keepdim=True)
    return {
        "colour": F.adaptive_avg_pool2d(batch.image, grid),
        "edges": F.adaptive_avg_pool2d(gradient(batch.image), grid),
        "depth": log_depth(batch, grid),
        "label": label.where(label < classes, IGNORE).float(),
    }


def shares(mask: Int[Tensor, "b H W"], grid: tuple[int, int], classes: int) -> Float[Tensor, "b k h w"]:
    """The share of every class in every cell, and last of what has none; no array of classes x pixels is made."""
    (b, *sides), (h, w) = mask.shape, grid
    y, x = (torch.arange(n, device=mask.device) * cells // n for n, cells in zip(sides, grid, strict=True))
    place = (y[:, None] * w + x) * (classes + 1) + mask.where(mask != IGNORE, classes)
    counts = torch.zeros(b, h * w * (classes + 1), device=mask.device)
    counts.scatter_add_(1, place.flatten(1), torch.ones_like(place.flatten(1), dtype=counts.dtype))
    counts = counts.view(b, h, w, classes + 1).permute(0, 3, 1, 2)
    return counts / counts.sum(1, keepdim=True)


def gradient(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1 H W"]:
    """How steep the luminance (Rec. 601, of [-1, 1]) is, per pixel, by Sobel's differences."""
    grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    across = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    slopes = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), torch.stack([across, across.T])[:, None])
    return slopes.norm(dim=1, keepdim=True)


def log_depth(batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b 1 h w"]:
    """The mean over the pixels of a cell that have a depth, where half of them or more do, as not in the sky."""
    none = torch.full(batch.image.shape[-2:], torch.nan)
    planes = [none if plane is None else plane for plane in batch.extra.get("depth", [None] * len(batch.id))]
    log = torch.stack(planes)[:, None].log()
    known = log.isfinite()
    share, total = (F.adaptive_avg_pool2d(x, grid) for x in (known.float(), log.where(known, 0)))
    return (total / share).where(share >= 0.5, torch.nan)


def _rows(maps: Float[Tensor, "b c h w"], drawn: Int[Tensor, "b 1 n"]) -> Float[Tensor, "b*n c"]:
    flat = maps.flatten(2)
    return flat.gather(2, drawn.expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)
