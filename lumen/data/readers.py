"""Reads one file of a data set, or says in one sentence why it cannot."""

import json
import struct
import zlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE

PICTURES = (".jpg", ".jpeg", ".png")
AGAIN = "copy or download it again"
# All that PIL is known to raise on files that are cut short, overwritten or not pictures.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def _explained(read: Callable) -> Callable:
    """Turns what a decoder says of a broken file into BadSample with the file, the reason and the next step."""

    @wraps(read)
    def explained(path: Path, **how: Any) -> Any:
        try:
            return read(path, **how)
        except FileNotFoundError:
            raise BadSample(f"{path} does not exist; {AGAIN}.") from None
        except BROKEN as error:
            reason = f"is no {path.suffix} file" if isinstance(error, Image.UnidentifiedImageError) else error
            raise BadSample(f"{path} cannot be read ({reason}); {AGAIN}.") from error

    return explained


@_explained
def picture(path: Path) -> Image.Image:
    """A photo as RGB; grey becomes three equal channels, transparency is laid on white.

    EXIF orientation is left alone: the label maps of all these data sets follow the stored pixels.
    """
    with Image.open(path) as image:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")


@_explained
def label_map(path: Path, table: np.ndarray) -> Image.Image:
    """A label map as class ids, 8 bit; `table` (see `lookup`) says which id of the file is which class."""
    with Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise BadSample(
                f"{path} is no label map: its pixels are {image.mode}, not one byte; put the map of ids there."
            )
        ids = np.asarray(image)
    classes = table[ids]
    if classes.min() < 0:
        strange = ", ".join(map(str, np.unique(ids[classes < 0])[:5]))
        raise BadSample(
            f"{path} holds label id {strange}, which the data set does not have; check that it is the original map."
        )
    return Image.fromarray(classes.astype(np.uint8))


@_explained
def disparity(path: Path) -> Image.Image:
    """A Cityscapes disparity in pixels, NaN where there is none.

    Source: the cityscapesScripts README: p > 0 means (p - 1) / 256, p = 0 an invalid measurement.
    """
    with Image.open(path) as image:
        stored = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.where(stored > 0, (stored - 1) / 256, np.float32("nan")))


@_explained
def document(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def boxes(path: Path) -> list[dict]:
    """The objects of a Cityscapes 3D file as they stand there; the fields are described in cityscapes.py."""
    content = document(path)
    if not isinstance(content, dict) or "objects" not in content:
        raise BadSample(f"{path} holds no 'objects'; {AGAIN}.")
    return content["objects"]


def captions(path: Path) -> dict[str, list[str]]:
    """Captions by the stem of their image, from COCO's own format or from {stem: caption or captions}."""
    content = document(path)
    try:
        if "annotations" not in content:
            return {stem: [c.strip() for c in _several(said)] for stem, said in content.items()}
        stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        found: dict[str, list[str]] = {stem: [] for stem in stems.values()}
        for note in content["annotations"]:
            found[stems[note["image_id"]]].append(note["caption"].strip())
        return found
    except (KeyError, TypeError, AttributeError):
        raise BadSample(
            f"{path} is neither {{stem: caption}} nor COCO's captions; write it in one of the two."
        ) from None


def _several(said: str | list[str]) -> list[str]:
    return [said] if isinstance(said, str) else said


def lookup(classes: dict[int, int]) -> np.ndarray:
    """A table (256,) from the id in the file to the class: -1 where the data set has no such id."""
    table = np.full(256, -1, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def consecutive(ids: list[int]) -> dict[int, int]:
    """The classes 0, 1, 2, ... for these ids, and 255 for unlabelled pixels."""
    return {id: new for new, id in enumerate(ids)} | {IGNORE: IGNORE}
