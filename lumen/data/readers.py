"""Readers of single files of a data set. A file that cannot be used raises one sentence with the reason."""

import json
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lumen.core.boxes import boxes_to_array
from lumen.core.errors import BadSample, Mistake
from lumen.core.labels import IGNORE
from lumen.core.readers import explain_damage, require_shape

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REMEDY = "copy or download it again"
OBJECT_SHAPE = {"label": str, "2d": {"amodal": list}, "3d": {"center": list, "dimensions": list, "rotation": list}}
# Pillow warns of metadata and sizes that it reads all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")


def _explain_errors(remedy: str) -> Callable[[Callable], Callable]:
    """Return a decorator of readers that converts every error into BadSample, with the file and the next step."""

    def decorate(read: Callable) -> Callable:
        @wraps(read)
        def explained(path: Path, **options: Any) -> Any:
            try:
                with explain_damage(path, remedy):
                    _require_regular(path)
                    return read(path, **options)
            except BadSample:
                raise
            except Mistake as error:
                raise BadSample(str(error)) from error

        return explained

    return decorate


def _require_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BadSample(f"{path} does not exist; restore it, or correct the path.") from None
    if not stat.S_ISREG(mode):  # to open a pipe would wait for its writer
        raise BadSample(f"{path} is no regular file; put a file there.")


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path)
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is no {path.suffix or 'image'} file that Pillow can read") from None
    except Image.DecompressionBombError:
        raise BadSample(f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller.") from None
    with image:
        yield image


@_explain_errors(REMEDY)
def read_image(path: Path) -> Image.Image:
    """Read an image of a data set as RGB.

    Grey becomes three equal channels, and transparency is composed on white. Of 16 bits the upper 8 count, as Pillow
    reads colours of 16 bits. EXIF orientation is ignored: the label maps of all data sets follow the stored pixels.
    """
    with _open_image(path) as image:
        return _to_rgb(image, path)


@_explain_errors("copy it again, or save it as JPEG or PNG")
def read_photo(path: Path) -> Image.Image:
    """Read a photo as `read_image` does, but upright, as its EXIF orientation says and as viewers show it."""
    with _open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, path)


def decode_photo(content: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as `read_photo` reads a file; the name is for messages."""
    with _explain_content(content, name) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, Path(name))


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as `read_image` reads a file; the name is for messages."""
    with _explain_content(content, name) as image:
        return _to_rgb(image, Path(name))


def decode_label_map(content: bytes, name: str, table: np.ndarray) -> Image.Image:
    """Decode the bytes of a label map as `read_label_map` reads a file; the name is for messages."""
    with _explain_content(content, name) as image:
        return _to_classes(image, Path(name), table)


@contextmanager
def _explain_content(content: bytes, name: str) -> Iterator[Image.Image]:
    try:
        with explain_damage(Path(name), REMEDY), Image.open(BytesIO(content)) as image:
            yield image
    except BadSample:
        raise
    except Mistake as error:
        raise BadSample(str(error)) from error


def is_turned(image: Image.Image) -> bool:
    """Return whether viewers show an image otherwise than it is stored."""
    return image.getexif().get(0x0112, 1) in range(2, 9)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Return an image of any mode as RGB.

    Raises:
        BadSample: Its pixels are numbers of which none is known to be white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _upper_bits(image)
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floating-point numbers"}[image.mode]
        raise BadSample(
            f"the pixels of {path} are {kind}, of which none is known to be white; save it with 8 or 16 bits."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_classes(image: Image.Image, path: Path, table: np.ndarray) -> Image.Image:
    """Return an image of label ids as one of classes."""
    if image.mode not in ("L", "P"):
        raise BadSample(f"{path} is no label map: its pixels are {image.mode}, not one byte; put the map of ids there.")
    ids = np.asarray(image)
    classes = table[ids]
    if classes.min() < 0:
        unknown = ", ".join(map(str, np.unique(ids[classes < 0])[:5]))
        raise BadSample(
            f"{path} holds label id {unknown}, which the data set does not have; check that it is the original map."
        )
    return Image.fromarray(classes.astype(np.uint8))


def _upper_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits as RGB; the grey that stands for transparency becomes white."""
    stored = np.asarray(image)
    grey = (stored >> 8).astype(np.uint8)
    grey[stored == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey).convert("RGB")


@_explain_errors(REMEDY)
def read_label_map(path: Path, table: np.ndarray) -> Image.Image:
    """Read a label map as 8-bit class ids.

    Args:
        path: Image of one byte per pixel.
        table: Class of each label id in the file (see `lookup_table`).
    """
    with _open_image(path) as image:
        return _to_classes(image, path, table)


@_explain_errors(REMEDY)
def read_disparity(path: Path) -> Image.Image:
    """Read a Cityscapes disparity in pixels, with NaN for invalid measurements.

    Source: README of cityscapesScripts: p > 0 means (p - 1) / 256, p = 0 an invalid measurement.
    """
    with _open_image(path) as image:
        if not image.mode.startswith("I"):
            raise BadSample(f"{path} is no disparity: its pixels are {image.mode}, not 16 bits; {REMEDY}.")
        stored = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.where(stored > 0, (stored - 1) / 256, np.float32("nan")))


@_explain_errors("copy it again, or save it as a single JSON value in UTF-8")
def read_json(path: Path) -> Any:
    """Read a JSON file. Its encoding may be UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    return json.loads(path.read_bytes(), object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dictionary.

    Raises:
        ValueError: A key has two values.
    """
    content = dict(pairs)
    if len(content) != len(pairs):
        for key, value in pairs:
            if content[key] != value:
                raise ValueError(f"the key {key!r} has two values")
    return content


@_explain_errors(REMEDY)
def read_boxes(path: Path) -> dict[str, Any]:
    """Read a Cityscapes 3D file unchanged; what it lacks besides objects is empty.

    `datamodules/cityscapes.py` describes the fields.
    """
    content = read_json(path)
    require_shape(content, {"objects": list})
    content = {"ignore": [], "sensor": {}} | content
    require_shape(content, {"ignore": list, "sensor": dict})
    for entry in content["objects"]:
        require_shape(entry, OBJECT_SHAPE, "an object of it")
    boxes_to_array(content["objects"], [entry["label"] for entry in content["objects"]])  # as many numbers as there are
    for region in content["ignore"]:
        require_shape(region, {"2d": list}, "a region of its 'ignore'")
    return content


def lookup_table(classes: dict[int, int]) -> np.ndarray:
    """Return an array (256,) of classes by label id, with -1 for ids that the data set does not have."""
    table = np.full(256, -1, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def consecutive_classes(ids: list[int]) -> dict[int, int]:
    """Return the classes 0, 1, 2, ... for these label ids, and `IGNORE` for 255, the id of unlabelled pixels."""
    return {id: new for new, id in enumerate(ids)} | {IGNORE: IGNORE}
