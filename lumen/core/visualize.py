"""Grids of images for people: rows and columns with titles and captions, and layouts as colours."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lumen.core.readers import explain_damage

GRID_REMEDY = "remove it: the table has no picture of this run then"
MIN_CELL_PIXELS = 160  # shorter side of an image in a grid
GAP_PIXELS, TEXT_PIXELS = 6, 18
THUMBNAIL_PIXELS = 256  # longest shorter side of a thumbnail
LETTER_PIXELS = 6.2  # mean width of a letter of a caption


def layout_to_rgb(layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return the first three components as red, green and blue in [0, 1], on one scale for the whole batch."""
    rgb = layout[:, :3].float()
    rgb = torch.cat([rgb, rgb[:, :1].expand(-1, 3 - rgb.shape[1], -1, -1)], dim=1)
    values = rgb.transpose(0, 1).flatten(1)
    # From the 2nd to the 98th percentile, so that a single outlier does not grey out all other cells.
    low, high = values.quantile(0.02, dim=1), values.quantile(0.98, dim=1)
    span = (high - low).clamp(min=1e-6)[:, None, None]
    return ((rgb - low[:, None, None]) / span).clamp(0, 1)


def to_uint8(image: Float[Tensor, "3 H W"]) -> UInt8[Tensor, "H W 3"]:
    """Return an image in [-1, 1] as bytes."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


def preview_columns(
    image: Float[Tensor, "b 3 H W"], layout: Float[Tensor, "b 3 h w"], samples: list[Tensor]
) -> dict[str, Float[Tensor, "b 3 _ _"]]:
    """Return images, their layouts, given as RGB in [0, 1], and their samples by title, all in [-1, 1]."""
    return {"image": image, "layout": layout * 2 - 1} | {f"sample {k + 1}": x for k, x in enumerate(samples)}


def make_grid(columns: dict[str, Float[Tensor, "b 3 _ _"]], captions: list[str]) -> Image.Image:
    """Return a grid of images in [-1, 1] with one row per image and its caption below."""
    return tile_images([list(row) for row in zip(*columns.values(), strict=True)], list(columns), captions)


def thumbnails(columns: list[Float[Tensor, "b 3 _ _"]]) -> UInt8[Tensor, "b n 3 h w"]:
    """Return columns of images in [-1, 1] as bytes, all of the size of the first and no larger than a thumbnail."""
    height, width = columns[0].shape[-2:]
    factor = min(1, THUMBNAIL_PIXELS / min(height, width))
    size = round(height * factor), round(width * factor)
    modes = ["area" if column.shape[-2] > size[0] else "nearest" for column in columns]
    resized = [F.interpolate(x.float(), size, mode=mode) for x, mode in zip(columns, modes, strict=True)]
    return ((torch.stack(resized, dim=1) + 1) * 127.5).round().clamp(0, 255).byte()


def tile_images(rows: list[list[Tensor]], titles: list[str], captions: list[str]) -> Image.Image:
    """Return a grid of images in [-1, 1]. Small images are enlarged by an integer factor without smoothing.

    Args:
        rows: Images of each row.
        titles: Text above each column.
        captions: Text below each row; it is cut to the width of the grid.
    """
    height, width = rows[0][0].shape[-2:]
    factor = max(1, -(-MIN_CELL_PIXELS // min(height, width)))
    height, width = height * factor, width * factor
    row_height, column_width = height + TEXT_PIXELS + GAP_PIXELS, width + GAP_PIXELS
    size = (GAP_PIXELS + column_width * len(titles), TEXT_PIXELS + GAP_PIXELS + row_height * len(rows))
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, title in enumerate(titles):
        pen.text((GAP_PIXELS + column * column_width, 4), title, "black", font)
    max_letters = int((canvas.width - 2 * GAP_PIXELS) / LETTER_PIXELS)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        top = TEXT_PIXELS + GAP_PIXELS + row * row_height
        for column, image in enumerate(images):
            enlarged = F.interpolate(image[None].float(), (height, width), mode="nearest")[0]
            canvas.paste(Image.fromarray(to_uint8(enlarged).numpy()), (GAP_PIXELS + column * column_width, top))
        text = caption if len(caption) <= max_letters else caption[: max_letters - 1] + "…"
        pen.text((GAP_PIXELS, top + height + 2), text, "dimgray", font)
    return canvas


def save_grid(grid: Image.Image, captions: list[str], path: Path) -> None:
    """Write a grid as a PNG file that holds the captions as text."""
    text = PngInfo()
    text.add_itxt("captions", json.dumps(captions))
    grid.save(path, format="PNG", pnginfo=text)


def load_grid(path: Path, columns: int) -> tuple[list[list[Image.Image]], list[str]]:
    """Return the square images of a grid, row by row, and the captions; "" where the file has none.

    Raises:
        BadFile: The file is damaged, or holds another picture.
    """
    with explain_damage(path, GRID_REMEDY):
        with Image.open(path) as file:
            grid, captions = file.convert("RGB"), json.loads(file.info.get("captions", "[]"))
        side = (grid.width - GAP_PIXELS) // columns - GAP_PIXELS
        ys = range(TEXT_PIXELS + GAP_PIXELS, grid.height - side, side + TEXT_PIXELS + GAP_PIXELS)
        xs = [GAP_PIXELS + column * (side + GAP_PIXELS) for column in range(columns)]
        rows = [[grid.crop((x, y, x + side, y + side)) for x in xs] for y in ys]
        captions = captions or [""] * len(rows)
        if side < 1 or not rows or len(captions) != len(rows) or not all(isinstance(text, str) for text in captions):
            raise ValueError(f"it is no grid of {columns} columns")
        return rows, captions


def make_component_grids(
    image: Float[Tensor, "3 H W"], layout: Float[Tensor, "k h w"], explained: list[float]
) -> list[Image.Image]:
    """Return grids of one row: the image, its layout in colours, and each component in grey.

    Args:
        explained: Share of the variance that each component explains; it becomes the component's title.
    """
    low, high = layout.flatten(1).quantile(0.02, dim=1), layout.flatten(1).quantile(0.98, dim=1)
    grey = ((layout - low[:, None, None]) / (high - low).clamp(min=1e-6)[:, None, None]).clamp(0, 1)
    tiles = [image, layout_to_rgb(layout[None])[0] * 2 - 1, *(g.expand(3, -1, -1) * 2 - 1 for g in grey)]
    size = tuple(image.shape[-2:])
    tiles = [F.interpolate(t[None].float(), size, mode="nearest")[0] for t in tiles]
    titles = ["image", "first three components", *(f"{i + 1}: {share:.1%}" for i, share in enumerate(explained))]
    columns = min(len(tiles), 6)
    blank = torch.ones_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    titles += [""] * (-len(titles) % columns)
    starts = range(0, len(tiles), columns)
    return [tile_images([tiles[i : i + columns]], titles[i : i + columns], [""]) for i in starts]


def stack_grids(grids: list[Image.Image]) -> Image.Image:
    """Return grids of one width below one another, without the empty caption line at the foot of each."""
    canvas = Image.new("RGB", (grids[0].width, sum(grid.height - TEXT_PIXELS for grid in grids)), "white")
    top = 0
    for grid in grids:
        canvas.paste(grid, (0, top))
        top += grid.height - TEXT_PIXELS
    return canvas


def stack_named_grids(grids: dict[str, Image.Image]) -> Image.Image:
    """Return the first half of the rows of each grid below one another, each under its name."""
    head = TEXT_PIXELS + GAP_PIXELS
    halves = {name: grid.crop((0, 0, grid.width, (grid.height + head) // 2)) for name, grid in grids.items()}
    width, height = max(half.width for half in halves.values()), sum(half.height + head for half in halves.values())
    canvas = Image.new("RGB", (width, height), "white")
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(14), 0
    for name, half in halves.items():
        pen.text((GAP_PIXELS, top + 3), name, "black", font)
        canvas.paste(half, (0, top + head))
        top += half.height + head
    return canvas
