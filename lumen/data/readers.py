"""Readers of single files of a data set. A file that cannot be used raises one sentence with the reason."""

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
from lumen.core.labels import IGNORE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REMEDY = "copy or download it again"
# Every exception that PIL is known to raise for a file that is truncated, overwritten or not an image.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def _explain_errors(read: Callable) -> Callable:
    """Convert decoding errors of a reader into BadSample, with the file, the reason and the next step."""

    @wraps(read)
    def explained(path: Path, **options: Any) -> Any:
        try:
            return read(path, **options)
        except FileNotFoundError:
            raise BadSample(f"{path} does not exist; {REMEDY}.") from None
        except DECODING_ERRORS as error:
            reason = f"is no {path.suffix} file" if isinstance(error, Image.UnidentifiedImageError) else error
            raise BadSample(f"{path} cannot be read ({reason}); {REMEDY}.") from error

    return explained


@_explain_errors
def read_image(path: Path) -> Image.Image:
    """Read a photo as RGB. Grey becomes three equal channels, and transparency is composed on white.

    EXIF orientation is ignored: the label maps of all data sets follow the stored pixels.
    """
    with Image.open(path) as image:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")


@_explain_errors
def read_label_map(path: Path, table: np.ndarray) -> Image.Image:
    """Read a label map as 8-bit class ids.

    Args:
        path: Image of one byte per pixel.
        table: Class of each label id in the file (see `lookup_table`).
    """
    with Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise BadSample(
                f"{path} is no label map: its pixels are {image.mode}, not one byte; put the map of ids there."
            )
        ids = np.asarray(image)
    classes = table[ids]
    if classes.min() < 0:
        unknown = ", ".join(map(str, np.unique(ids[classes < 0])[:5]))
        raise BadSample(
            f"{path} holds label id {unknown}, which the data set does not have; check that it is the original map."
        )
    return Image.fromarray(classes.astype(np.uint8))


@_explain_errors
def read_disparity(path: Path) -> Image.Image:
    """Read a Cityscapes disparity in pixels, with NaN for invalid measurements.

    Source: README of cityscapesScripts: p > 0 means (p - 1) / 256, p = 0 an invalid measurement.
    """
    with Image.open(path) as image:
        stored = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.where(stored > 0, (stored - 1) / 256, np.float32("nan")))


@_explain_errors
def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_boxes(path: Path) -> list[dict]:
    """Read the objects of a Cityscapes 3D file unchanged. `datamodules/cityscapes.py` describes the fields."""
    content = read_json(path)
    if not isinstance(content, dict) or "objects" not in content:
        raise BadSample(f"{path} holds no 'objects'; {REMEDY}.")
    return content["objects"]


def read_captions(path: Path) -> dict[str, list[str]]:
    """Read captions by the stem of their image, from COCO's format or from {stem: caption or captions}."""
    content = read_json(path)
    try:
        if "annotations" not in content:
            return {stem: [caption.strip() for caption in _as_list(value)] for stem, value in content.items()}
        stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        captions: dict[str, list[str]] = {stem: [] for stem in stems.values()}
        for annotation in content["annotations"]:
            captions[stems[annotation["image_id"]]].append(annotation["caption"].strip())
        return captions
    except (KeyError, TypeError, AttributeError):
        raise BadSample(
            f"{path} is neither {{stem: caption}} nor COCO's captions; write it in one of the two."
        ) from None


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def lookup_table(classes: dict[int, int]) -> np.ndarray:
    """Return an array (256,) of classes by label id, with -1 for ids that the data set does not have."""
    table = np.full(256, -1, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def consecutive_classes(ids: list[int]) -> dict[int, int]:
    """Return the classes 0, 1, 2, ... for these label ids, and `IGNORE` for 255, the id of unlabelled pixels."""
    return {id: new for new, id in enumerate(ids)} | {IGNORE: IGNORE}
