"""Edits of a layout: regions of its cells, and what is done with them; pure functions of tensors."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lumen.core.labels import IGNORE

Cell = tuple[int, int]  # row and column


def select_rectangle(size: Cell, corner: Cell, opposite: Cell) -> Bool[Tensor, "h w"]:
    """Return the cells of a rectangle, both corners included; corners may lie outside of the layout."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    (top, bottom), (left, right) = (sorted(pair) for pair in zip(corner, opposite, strict=True))
    return (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)


def select_disc(size: Cell, center: Cell, radius: float) -> Bool[Tensor, "h w"]:
    """Return the cells that a round brush touches: those within a radius, in cells, of a center."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


def select_similar(layout: Float[Tensor, "k h w"], cell: Cell, likeness: float) -> Bool[Tensor, "h w"]:
    """Return the cells whose vectors have at least this cosine with that of a cell, which is always among them."""
    cosine = F.cosine_similarity(layout, layout[:, cell[0], cell[1], None, None], dim=0)
    return (cosine >= likeness) | select_disc(layout.shape[-2:], cell, 0)


def select_drawing(drawing: Float[Tensor, "H W"], size: Cell) -> Bool[Tensor, "h w"]:
    """Return the cells of which a drawing covers half or more.

    Args:
        drawing: Opacity from 0 to 1.
    """
    return F.interpolate(drawing[None, None], size, mode="area")[0, 0] >= 0.5


def shift(region: Bool[Tensor, "h w"], rows: int, columns: int) -> Bool[Tensor, "h w"]:
    """Return a region moved by rows and columns; cells that leave the layout are lost."""
    return _shift(region[None], rows, columns)[0] & _shift(torch.ones_like(region)[None], rows, columns)[0]


def copy_region(
    layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"], rows: int, columns: int
) -> Float[Tensor, "k h w"]:
    """Return a layout with a copy of a region, moved by rows and columns."""
    return paste_region(layout, layout, region, rows, columns)


def move_region(
    layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"], rows: int, columns: int
) -> Float[Tensor, "k h w"]:
    """Return a layout with a region moved by rows and columns; its surroundings fill what it leaves."""
    return paste_region(erase_region(layout, region), layout, region, rows, columns)


def paste_region(
    layout: Float[Tensor, "k h w"],
    source: Float[Tensor, "k _ _"],
    region: Bool[Tensor, "h w"],
    rows: int = 0,
    columns: int = 0,
) -> Float[Tensor, "k h w"]:
    """Return a layout with a region of another one, moved by rows and columns.

    Args:
        source: The other layout; one of another size is resized.
        region: Cells of the other layout.
    """
    if source.shape != layout.shape:
        source = F.interpolate(source[None], layout.shape[-2:], mode="nearest")[0]
    return torch.where(shift(region, rows, columns), _shift(source, rows, columns), layout)


def mirror_region(layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"]) -> Float[Tensor, "k h w"]:
    """Return a layout with left and right of a region exchanged; its surroundings fill what it leaves."""
    flipped = mirror(region)
    left, right = _columns(region)
    source = layout.clone()
    source[..., left:right] = layout[..., left:right].flip(-1)
    return torch.where(flipped, source, erase_region(layout, region))


def mirror(region: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Return a region with left and right exchanged, between the columns that it has."""
    left, right = _columns(region)
    flipped = region.clone()
    flipped[:, left:right] = region[:, left:right].flip(1)
    return flipped


def erase_region(layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"]) -> Float[Tensor, "k h w"]:
    """Return a layout in which each cell of a region has the vector of the nearest cell outside.

    If the region is the whole layout, its vectors become zero: those of the mean feature.
    """
    inside, outside = region.nonzero(), (~region).nonzero()
    result = layout.clone()
    if not len(outside):
        return torch.zeros_like(layout)
    nearest = outside[torch.cdist(inside.float(), outside.float()).argmin(1)]
    result[:, inside[:, 0], inside[:, 1]] = layout[:, nearest[:, 0], nearest[:, 1]]
    return result


def paint_region(
    layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"], vector: Float[Tensor, " k"]
) -> Float[Tensor, "k h w"]:
    """Return a layout in which all cells of a region have one vector."""
    return torch.where(region, vector[:, None, None], layout)


def weigh_components(layout: Float[Tensor, "k h w"], gains: Float[Tensor, " k"]) -> Float[Tensor, "k h w"]:
    """Return a layout with each component multiplied by a gain; 0 takes it away, 1 leaves its bits as they are."""
    return layout * gains[:, None, None]


def class_vectors(
    layouts: Float[Tensor, "b k h w"], masks: Int[Tensor, "b H W"], num_classes: int
) -> Float[Tensor, "c k"]:
    """Return the mean vector of the cells of each class; that of a class without a cell is NaN.

    The class of a cell is that of its middle pixel.
    """
    size = tuple(layouts.shape[-2:])
    labels = F.interpolate(masks[:, None].float(), size, mode="nearest-exact").long().flatten()
    vectors = layouts.movedim(1, -1).flatten(0, 2).double()
    is_labelled = (labels != IGNORE) & (labels < num_classes)
    sums = vectors.new_zeros(num_classes, layouts.shape[1]).index_add_(0, labels[is_labelled], vectors[is_labelled])
    counts = torch.bincount(labels[is_labelled], minlength=num_classes)
    return (sums / counts[:, None]).float()


def _shift(x: Shaped[Tensor, "k h w"], rows: int, columns: int) -> Shaped[Tensor, "k h w"]:
    """Return maps moved by rows and columns; zeros come in."""
    height, width = x.shape[-2:]
    rows, columns = max(-height, min(height, rows)), max(-width, min(width, columns))
    moved = torch.zeros_like(x)
    target = moved[:, max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]
    target.copy_(x[:, max(0, -rows) : height + min(0, -rows), max(0, -columns) : width + min(0, -columns)])
    return moved


def _columns(region: Bool[Tensor, "h w"]) -> tuple[int, int]:
    """Return the first column of a region, and the one after its last; 0, 0 if it has none."""
    columns = region.any(0).nonzero()
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
