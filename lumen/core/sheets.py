"""Sheets of pictures: photos beside the components of their layouts, and rows of a table beside one another."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumen.core.visualize import Grid, layout_to_rgb, stretch_contrast, tile_images

MAX_COLUMNS = 6  # of the sheet of one photo
MAX_SAMPLES = 2  # of an image in a comparison
SCALE = "each picture on its own scale"
SAME_NOISE = "samples in one row start from the same noise"


def component_pictures(
    image: Float[Tensor, "b 3 H W"], layout: Float[Tensor, "b k h w"], explained: list[float]
) -> dict[str, Float[Tensor, "b 3 _ _"]]:
    """Return images, their layouts in colours, and each component in grey by title, all in [-1, 1].

    Args:
        explained: Share of the variance that each component explains.
    """
    grey = stretch_contrast(layout.float())
    titles = [f"component {number}: {share:.1%}" for number, share in enumerate(explained, 1)]
    pictures = {"image": image, f"components 1-{min(3, layout.shape[1])}": layout_to_rgb(layout) * 2 - 1}
    return pictures | {
        title: grey[:, i : i + 1].expand(-1, 3, -1, -1) * 2 - 1 for i, title in enumerate(titles[: layout.shape[1]])
    }


def make_layout_sheet(names: list[str], pictures: dict[str, Float[Tensor, "b 3 _ _"]], legend: str) -> Image.Image:
    """Return pictures by title: those of one photo in lines, those of several photos side by side.

    Args:
        names: Name of each photo.
    """
    size = tuple(pictures["image"].shape[-2:])
    resized = [F.interpolate(images.float(), size, mode="nearest") for images in pictures.values()]
    titles = list(pictures)
    if len(names) > 1:
        return tile_images([list(images) for images in resized], names, titles, legend)
    tiles, columns = [images[0] for images in resized], min(len(titles), MAX_COLUMNS)
    num_blank = -len(tiles) % columns
    tiles, titles = tiles + [torch.ones_like(tiles[0])] * num_blank, titles + [""] * num_blank
    starts = range(0, len(tiles), columns)
    legends = [legend if start == starts[-1] else "" for start in starts]
    return stack_pictures(
        [
            tile_images([tiles[i : i + columns]], titles[i : i + columns], [""], text)
            for i, text in zip(starts, legends, strict=True)
        ]
    )


def make_comparison_sheet(grids: dict[str, Grid]) -> Image.Image:
    """Return the first half of the images of several grids, with one column per grid.

    An image stands once, at the left, if all grids have the same. Below one another stand layout and samples.
    """
    num_images = max(1, max(len(grid.rows) for grid in grids.values()) // 2)
    return stack_pictures([_compare_image(grids, i, is_last=i == num_images - 1) for i in range(num_images)])


def _compare_image(grids: dict[str, Grid], index: int, is_last: bool) -> Image.Image:
    """Return the pictures of one image, with one column per grid that has it."""
    grids = {name: grid for name, grid in grids.items() if index < len(grid.rows)}
    first = next(iter(grids.values()))
    count = min(2 + MAX_SAMPLES, *(len(grid.rows[index]) for grid in grids.values()))
    kinds = first.titles or ["image", "layout", *(f"sample {number + 1}" for number in range(count))]
    rows = [[_to_tensor(grid.rows[index][kind]) for grid in grids.values()] for kind in range(count)]
    titles, kinds = list(grids), kinds[:count]
    if all(torch.equal(image, rows[0][0]) for image in rows[0]):
        blank = torch.ones_like(rows[0][0])
        images = [rows[0][0], *[blank] * (count - 2)]
        rows = [[image, *row] for image, row in zip(images, rows[1:], strict=True)]
        titles, kinds = ["image", *titles], [f"image, and the {kinds[1]} of each column", *kinds[2:]]
    captions = list(dict.fromkeys(grid.captions[index] for grid in grids.values()))
    legend = [captions[0]] if len(captions) == 1 else []
    return tile_images(rows, titles, kinds, "; ".join(filter(None, legend + [SAME_NOISE] * is_last)))


def stack_pictures(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures below one another, on white."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def _to_tensor(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    """Return a picture in [-1, 1], from which the same bytes are made again."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
