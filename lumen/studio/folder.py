"""Folder of the studio: photos and layouts, named by their content, decoded safely, and removed after an hour."""

import os
import shutil
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumen.core.errors import BadSample, Mistake
from lumen.core.readers import explain_damage
from lumen.core.visualize import to_uint8
from lumen.data.readers import read_photo
from lumen.runs.layout_files import load_layout

MAX_SECONDS = 3600  # that a file stays without being used
MAX_BYTES, MAX_PIXELS = 20_000_000, 50_000_000  # of a photo
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}  # by Pillow's name of a format
REMEDY = "save it as JPEG, PNG or WebP, and upload it again"


class StudioFolder:
    """Files that sessions share; a name tells nothing but the hash of the content.

    A file that is used again stays another hour: it is touched and removed under one lock.

    Args:
        directory: Folder of its own, which `remove` removes.
    """

    def __init__(self, directory: Path):
        self.directory, self.lock = directory, Lock()

    def add_photo(self, upload: Path) -> str:
        """Store an uploaded photo, and return its name.

        Raises:
            BadSample: It is too large, or no photo that can be read.
        """
        name = upload.name
        if upload.stat().st_size > MAX_BYTES:
            raise BadSample(f"{name} has more than {MAX_BYTES // 1_000_000} MB; make it smaller.")
        try:
            with explain_damage(Path(name), REMEDY), Image.open(upload, formats=list(SUFFIXES)) as image:
                form, pixels = image.format, image.width * image.height
        except Exception as error:
            raise BadSample(f"{name} is no photo that can be read; {REMEDY}.") from error
        if pixels > MAX_PIXELS:
            raise BadSample(f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller.")
        try:
            read_photo(upload)  # whole, before it is stored
        except BadSample as error:
            raise BadSample(f"{name} is damaged, or its pixels are no colours; {REMEDY}.") from error
        return self._write(upload.read_bytes(), "photo", SUFFIXES[form])

    def add_image(self, pixels: Float[Tensor, "3 H W"]) -> str:
        """Store an image in [-1, 1] as a photo, from which the same pixels are read, and return its name."""
        return self._write(_to_png(Image.fromarray(to_uint8(pixels).numpy())), "photo", ".png")

    def add_picture(self, picture: Image.Image) -> str:
        """Store a picture for the page, and return its path; one that is being fetched is not written again."""
        return str(self.directory / self._write(_to_png(picture), "picture", ".png"))

    def add_layout(self, layout: Float[Tensor, "k h w"]) -> str:
        """Store a layout, and return its name."""
        file = BytesIO()
        np.save(file, layout.numpy(), allow_pickle=False)
        return self._write(file.getvalue(), "layout", ".npy")

    def find(self, name: str) -> Path:
        """Return the path of a stored file, which stays another hour.

        Raises:
            BadSample: It was removed.
        """
        path = self.directory / name
        try:
            with self.lock:
                os.utime(path)
        except FileNotFoundError:
            raise BadSample(
                "this photo or layout was removed from the studio, which keeps files for an hour; open it again."
            ) from None
        return path

    def load_layout(self, name: str) -> Float[Tensor, "k h w"]:
        """Return a stored layout."""
        return load_layout(self.find(name))[0]

    def prune(self) -> None:
        """Remove files that nobody has used for an hour."""
        with self.lock:
            for path in self.directory.glob("*-*.*"):
                if time.time() - path.stat().st_mtime > MAX_SECONDS:
                    path.unlink()

    def remove(self) -> None:
        """Remove the folder with all that was uploaded."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, content: bytes, kind: str, suffix: str) -> str:
        """Write a file, unless it is there, and return its name. It ends with the studio, so no disk has to flush it.

        Raises:
            Mistake: The disk is full.
        """
        name = f"{kind}-{sha256(content).hexdigest()[:16]}{suffix}"
        path, draft = self.directory / name, self.directory / f".{name}"
        try:
            with self.lock:
                if path.exists():
                    os.utime(path)
                else:
                    draft.write_bytes(content)
                    draft.replace(path)
        except OSError as error:
            raise Mistake(f"{self.directory} cannot be written: {error.strerror}; make room on its disk.") from None
        return name


def _to_png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG file."""
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
