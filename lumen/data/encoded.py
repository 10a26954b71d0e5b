"""Images that lie in rows or archives, not in files of their own: decoded, hashed and checked as files are."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lumen.core.errors import BadSample
from lumen.core.progress import Phase
from lumen.data.captions import as_captions
from lumen.data.index import ImageRecord
from lumen.data.integrity import IntegrityReport
from lumen.data.readers import consecutive_classes, decode_image, decode_label_map, decode_photo, lookup_table


class EncodedImage(NamedTuple):
    """Content of an image file, and what is known of the image.

    Attributes:
        image: Bytes of the image file.
        mask: Bytes of the file of the label map.
        captions: Caption, or list of captions; None without one.
    """

    image: bytes
    mask: bytes | None = None
    captions: Any = None

    def hash(self) -> str:
        """Return a hash of the content of the files."""
        return hashlib.sha256(self.image + (self.mask or b"")).hexdigest()[:16]

    def decode(self, name: str, table: np.ndarray | None = None) -> dict[str, Any]:
        """Return image, label map and captions. An image with a label map is used as stored, any other upright.

        Args:
            name: Name for messages.
            table: Class of each label id; None for images without label maps.

        Raises:
            BadSample: Something cannot be used.
        """
        try:
            captions = tuple(filter(None, as_captions(self.captions or [])))
        except ValueError as error:
            raise BadSample(f"{name} has {error} as its caption; write text, or a list of texts.") from None
        if table is None:
            return {"captions": captions, "image": decode_photo(self.image, name)}
        if self.mask is None:
            raise BadSample(f"{name} has no label map; restore the map, or remove the image.")
        parts = {"image": decode_image(self.image, name), "mask": decode_label_map(self.mask, name, table)}
        _verify_sizes(name, parts)
        return {"captions": captions} | parts


def table_of(classes: Iterable[str]) -> np.ndarray | None:
    """Return the class of each label id where ids are positions of names; None without classes."""
    return lookup_table(consecutive_classes(list(range(len(classes))))) if classes else None


def check_images(
    name: str, place: str, splits: dict[str, list[ImageRecord]], load: Callable[[ImageRecord], EncodedImage], table: Any
) -> IntegrityReport:
    """Decode every image, and report all faults.

    Args:
        place: Where the data set lies.
        load: Function that returns the content of an image.
    """
    report, state = IntegrityReport(name, place), hashlib.sha256()
    total = sum(map(len, splits.values()))
    with Phase("checking", total, "images", every=10_000, stream=sys.stderr, leaves_line=False) as phase:
        for split, records in splits.items():
            captions = 0
            for record in records:
                try:
                    encoded = load(record)
                    state.update(f"{record.id} {encoded.hash()}\n".encode())
                    captions += len(encoded.decode(f"{record.id} of {name}", table)["captions"])
                except BadSample as error:
                    report.problems.append(str(error))
                phase.advance()
            report.counts[split] = {"image": len(records), "captions": captions}
    report.hash = state.hexdigest()[:16]
    return report


def _verify_sizes(name: str, parts: dict[str, Image.Image]) -> None:
    image, mask = parts["image"].size, parts["mask"].size
    if image != mask:
        sizes = ["x".join(map(str, size)) for size in (mask, image)]
        raise BadSample(f"the label map of {name} has {sizes[0]} pixels and its image {sizes[1]}; restore the two.")
