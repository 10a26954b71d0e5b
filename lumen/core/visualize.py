"""Grids of images for people: rows and columns with titles and captions, and layouts as colours."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lumen.core.labels import IGNORE
from lumen.core.readers import explain_damage

GRID_REMEDY = "remove it: the table has no picture of this run then"
MIN_CELL_PIXELS = 160  # shorter side of an image in a grid
GAP_PIXELS, TEXT_PIXELS = 6, 18
THUMBNAIL_PIXELS = 256  # longest shorter side of a thumbnail
LETTER_PIXELS = 6.2  # mean width of a letter of a caption
CELL = "cell"  # entry of a grid, and of its file, with height and width of a cell; square cells need none in the file


class Grid(NamedTuple):
    """Content of a grid's file.

    Attributes:
        rows: Pictures of each row.
        captions: Caption of each row; "" where the file has none.
        titles: Title of each column; none in files of older versions.
    """

    rows: list[list[Image.Image]]
    captions: list[str]
    titles: list[str]


def layout_to_rgb(layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return the first three components as red, green and blue in [0, 1], each image on its own scale.

    On one scale for several images a dark one would have a single colour.
    """
    rgb = layout[:, :3].float()
    return stretch_contrast(torch.cat([rgb, rgb[:, :1].expand(-1, 3 - rgb.shape[1], -1, -1)], dim=1))


def stretch_contrast(maps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Return maps in [0, 1], each on a scale of its own.

    It reaches from the 2nd to the 98th percentile, so that a single outlier does not grey out all other cells.
    """
    low, high = (maps.flatten(2).quantile(q, dim=2)[..., None, None] for q in (0.02, 0.98))
    return ((maps - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def draw_contours(image: Float[Tensor, "b 3 H W"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1] with the contours of label maps: a white line, and a black one on its other side."""
    labels = F.interpolate(mask[:, None].float(), image.shape[-2:], mode="nearest")[:, 0]
    image = image.clone()
    for dim in (1, 2):
        length = labels.shape[dim] - 1
        first, second = labels.narrow(dim, 0, length), labels.narrow(dim, 1, length)
        edge = (first != second) & (first != IGNORE) & (second != IGNORE)
        for start, value in ((0, 1.0), (1, -1.0)):
            image.narrow(dim + 1, start, length).masked_fill_(edge[:, None], value)
    return image


def to_uint8(image: Float[Tensor, "3 H W"]) -> UInt8[Tensor, "H W 3"]:
    """Return an image in [-1, 1] as bytes."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


def preview_columns(
    image: Float[Tensor, "b 3 H W"], layout: Float[Tensor, "b 3 h w"], samples: list[Tensor]
) -> dict[str, Float[Tensor, "b 3 _ _"]]:
    """Return images, their layouts, given as RGB in [0, 1], and their samples by title, all in [-1, 1]."""
    return {"image": image, "layout": layout * 2 - 1} | {f"sample {k + 1}": x for k, x in enumerate(samples)}


def make_grid(
    columns: dict[str, Float[Tensor, "b 3 _ _"]],
    captions: list[str],
    legend: str = "",
    mask: Int[Tensor, "b h w"] | None = None,
) -> Image.Image:
    """Return a grid of images in [-1, 1] with one row per image and its caption below.

    Args:
        legend: Text below the grid.
        mask: Label maps, whose contours overlay the column "layout".
    """
    size = _cell_size(next(iter(columns.values())))
    if mask is not None and "layout" in columns:
        layout = F.interpolate(columns["layout"].float(), size, mode="nearest")
        columns = columns | {"layout": draw_contours(layout, mask.to(layout.device))}
        legend = f"{legend}; lines: contours of the label map" if legend else legend
    return tile_images([list(row) for row in zip(*columns.values(), strict=True)], list(columns), captions, legend)


def thumbnails(columns: list[Float[Tensor, "b 3 _ _"]]) -> UInt8[Tensor, "b n 3 h w"]:
    """Return columns of images in [-1, 1] as bytes, all of the size of the first and no larger than a thumbnail."""
    height, width = columns[0].shape[-2:]
    factor = min(1, THUMBNAIL_PIXELS / min(height, width))
    size = round(height * factor), round(width * factor)
    modes = ["area" if column.shape[-2] > size[0] else "nearest" for column in columns]
    resized = [F.interpolate(x.float(), size, mode=mode) for x, mode in zip(columns, modes, strict=True)]
    return ((torch.stack(resized, dim=1) + 1) * 127.5).round().clamp(0, 255).byte()


def tile_images(rows: list[list[Tensor]], titles: list[str], captions: list[str], legend: str = "") -> Image.Image:
    """Return a grid of images in [-1, 1]. Small images are enlarged by an integer factor without smoothing.

    Args:
        rows: Images of each row.
        titles: Text above each column.
        captions: Text below each row; it is cut to the width of the grid.
        legend: Text below the grid, in as many lines as it needs.
    """
    height, width = _cell_size(rows[0][0])
    row_height, column_width = height + TEXT_PIXELS + GAP_PIXELS, width + GAP_PIXELS
    grid_width = GAP_PIXELS + column_width * len(titles)
    grid_height = TEXT_PIXELS + GAP_PIXELS + row_height * len(rows)
    max_letters = int((grid_width - 2 * GAP_PIXELS) / LETTER_PIXELS)
    lines = textwrap.wrap(legend, max_letters)
    canvas = Image.new("RGB", (grid_width, grid_height + TEXT_PIXELS * len(lines)), "white")
    canvas.info[CELL] = height, width
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, title in enumerate(titles):
        text = _cut(title, int(column_width / LETTER_PIXELS))
        pen.text((GAP_PIXELS + column * column_width, 4), text, "black", font)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        top = TEXT_PIXELS + GAP_PIXELS + row * row_height
        for column, image in enumerate(images):
            enlarged = F.interpolate(image[None].float(), (height, width), mode="nearest")[0]
            canvas.paste(Image.fromarray(to_uint8(enlarged).numpy()), (GAP_PIXELS + column * column_width, top))
        pen.text((GAP_PIXELS, top + height + 2), _cut(caption, max_letters), "dimgray", font)
    for number, line in enumerate(lines):
        pen.text((GAP_PIXELS, grid_height + TEXT_PIXELS * number), line, "dimgray", font)
    return canvas


def _cut(text: str, max_letters: int) -> str:
    return text if len(text) <= max_letters else text[: max_letters - 1] + "…"


def _cell_size(image: Float[Tensor, "... H W"]) -> tuple[int, int]:
    """Return height and width of the cells of a grid, whose first image is given."""
    height, width = image.shape[-2:]
    factor = max(1, -(-MIN_CELL_PIXELS // min(height, width)))
    return height * factor, width * factor


def save_grid(grid: Image.Image, captions: list[str], path: Path, titles: Sequence[str] = ()) -> None:
    """Write a grid as a PNG file that holds the captions, and the titles of the columns, as text."""
    height, width = grid.info[CELL]
    cell = {CELL: json.dumps([height, width])} if height != width else {}
    save_png(grid, path, {"captions": json.dumps(captions), "titles": json.dumps(list(titles))} | cell)


def save_png(image: Image.Image, path: Path, text: dict[str, str], compress_level: int = 6) -> None:
    """Write a PNG file that holds text by key, such as the command that made it."""
    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_itxt(key, value)
    image.save(path, format="PNG", pnginfo=chunks, compress_level=compress_level)


def load_grid(path: Path, columns: int) -> Grid:
    """Return the images of a grid, row by row, with captions and titles.

    Args:
        columns: Number of columns, where the file does not say it.

    Raises:
        BadFile: The file is damaged, or holds another picture.
    """
    with explain_damage(path, GRID_REMEDY):
        with Image.open(path) as file:
            grid, texts = file.convert("RGB"), [file.info.get(key, "[]") for key in ("captions", "titles", CELL)]
        captions, titles, cell = map(json.loads, texts)
        columns = len(titles) or columns
        width = (grid.width - GAP_PIXELS) // columns - GAP_PIXELS
        height = int(cell[0]) if cell else width
        ys = range(TEXT_PIXELS + GAP_PIXELS, grid.height - height, height + TEXT_PIXELS + GAP_PIXELS)
        xs = [GAP_PIXELS + column * (width + GAP_PIXELS) for column in range(columns)]
        rows = [[grid.crop((x, y, x + width, y + height)) for x in xs] for y in ys]
        captions = captions or [""] * len(rows)
        if min(height, width) < 1 or not rows or len(captions) != len(rows):
            raise ValueError(f"it is no grid of {columns} columns")
        if not all(isinstance(text, str) for text in [*captions, *titles]):
            raise ValueError("its captions are no texts")
        return Grid(rows, captions, titles)
