"""Pictures for people: layouts as colours, sheets of images with a line of text."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

CELL = 160  # px, the least side of a picture in a sheet
GAP, TEXT = 6, 18


def colours(layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
    """The first three components as red, green and blue, on one scale for all images of the batch."""
    three = layout[:, :3].float()
    three = torch.cat([three, three[:, :1].expand(-1, 3 - three.shape[1], -1, -1)], dim=1)
    flat = three.transpose(0, 1).flatten(1)
    # From the 2nd to the 98th percentile, so that one odd cell does not grey out the rest.
    low, high = flat.quantile(0.02, dim=1), flat.quantile(0.98, dim=1)
    span = (high - low).clamp(min=1e-6)[:, None, None]
    return ((three - low[:, None, None]) / span).clamp(0, 1)


def pixels(image: Float[Tensor, "3 H W"]) -> UInt8[Tensor, "H W 3"]:
    """An image in [-1, 1] as it stands in a PNG."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


def grid(
    image: Float[Tensor, "b 3 H W"], layout: Float[Tensor, "b 3 h w"], samples: list[Tensor], caption: list[str]
) -> Image.Image:
    """A row per image: itself, its layout as RGB in [0, 1], its samples, and its caption below."""
    shown = layout * 2 - 1
    rows = [[image[i], shown[i], *(s[i] for s in samples)] for i in range(len(image))]
    titles = ["image", "layout", *(f"sample {k + 1}" for k in range(len(samples)))]
    return sheet(rows, titles, caption)


def sheet(rows: list[list[Tensor]], titles: list[str], captions: list[str]) -> Image.Image:
    """Images in [-1, 1] in rows and columns; small ones are enlarged in whole pixels, so nothing is smoothed."""
    height, width = rows[0][0].shape[-2:]
    factor = max(1, -(-CELL // min(height, width)))
    height, width = height * factor, width * factor
    step = height + TEXT + GAP
    canvas = Image.new("RGB", (GAP + (width + GAP) * len(titles), TEXT + GAP + step * len(rows)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (width + GAP), 4), title, "black", font)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        top = TEXT + GAP + row * step
        for column, picture in enumerate(images):
            whole = F.interpolate(picture[None].float(), (height, width), mode="nearest")[0]
            canvas.paste(Image.fromarray(pixels(whole).numpy()), (GAP + column * (width + GAP), top))
        room = int((canvas.width - 2 * GAP) / 6.2)  # letters of this size that fit
        text = caption if len(caption) <= room else caption[: room - 1] + "…"
        pen.text((GAP, top + height + 2), text, "dimgray", font)
    return canvas


def save_grid(picture: Image.Image, captions: list[str], path: Path) -> None:
    """Writes a PNG that carries the captions as text."""
    said = PngInfo()
    said.add_itxt("captions", json.dumps(captions))
    picture.save(path, format="PNG", pnginfo=said)


def load_grid(path: Path, columns: int) -> tuple[list[list[Image.Image]], list[str]]:
    """What was put into a grid of square images, row by row, and the captions; "" where the file carries none."""
    with Image.open(path) as file:
        picture, captions = file.convert("RGB"), json.loads(file.info.get("captions", "[]"))
    side = (picture.width - GAP) // columns - GAP
    tops = range(TEXT + GAP, picture.height - side, side + TEXT + GAP)
    lefts = [GAP + column * (side + GAP) for column in range(columns)]
    rows = [[picture.crop((left, top, left + side, top + side)) for left in lefts] for top in tops]
    return rows, captions or [""] * len(rows)


def components(image: Float[Tensor, "3 H W"], layout: Float[Tensor, "k h w"], share: list[float]) -> list[Image.Image]:
    """Image, layout in colours, then each component alone with its share of the kept variance; to be stacked."""
    low, high = layout.flatten(1).quantile(0.02, dim=1), layout.flatten(1).quantile(0.98, dim=1)
    grey = ((layout - low[:, None, None]) / (high - low).clamp(min=1e-6)[:, None, None]).clamp(0, 1)
    tiles = [image, colours(layout[None])[0] * 2 - 1, *(g.expand(3, -1, -1) * 2 - 1 for g in grey)]
    size = tuple(image.shape[-2:])
    tiles = [F.interpolate(t[None].float(), size, mode="nearest")[0] for t in tiles]
    titles = ["image", "first three components", *(f"{i + 1}: {s:.1%}" for i, s in enumerate(share))]
    per_row = min(len(tiles), 6)
    blank = torch.ones_like(tiles[0])
    tiles += [blank] * (-len(tiles) % per_row)
    titles += [""] * (-len(titles) % per_row)
    starts = range(0, len(tiles), per_row)
    return [sheet([tiles[i : i + per_row]], titles[i : i + per_row], [""]) for i in starts]


def stacked(sheets: list[Image.Image]) -> Image.Image:
    """Sheets of one width below one another; the empty caption line at the foot of each is left out."""
    canvas = Image.new("RGB", (sheets[0].width, sum(s.height - TEXT for s in sheets)), "white")
    top = 0
    for one in sheets:
        canvas.paste(one, (0, top))
        top += one.height - TEXT
    return canvas


def piled(grids: dict[str, Image.Image]) -> Image.Image:
    """The first half of the rows of each grid, under its name."""
    head = TEXT + GAP
    shown = {name: grid.crop((0, 0, grid.width, (grid.height + head) // 2)) for name, grid in grids.items()}
    canvas = Image.new(
        "RGB", (max(g.width for g in shown.values()), sum(g.height + head for g in shown.values())), "white"
    )
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(14), 0
    for name, grid in shown.items():
        pen.text((GAP, top + 3), name, "black", font)
        canvas.paste(grid, (0, top + head))
        top += grid.height + head
    return canvas
