"""Photos of any folder: no label maps, any depth of folders, captions where there are some."""

from pathlib import Path
from typing import Literal

import numpy as np

from lumen.core.errors import DatasetMissing
from lumen.core.paths import user_path
from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.fake import save_image, write_json
from lumen.data.index import DatasetIndex
from lumen.data.photos import PhotoFolder
from lumen.data.readers import read_photo
from lumen.data.source import DataSource, LoaderConfig


@datamodules.register
class Folder(DataSource):
    """All photos below `root`. The name of a photo is its path there, and stays its name when photos are added.

    A caption is the text in PHOTO.txt beside the photo, one a line, or that of a metadata.jsonl, which names photos by
    "file_name" and captions by "text", or that of captions.json, {name: caption or captions}. Photos without one have
    an empty prompt. They are turned upright as their EXIF orientation says.

    Args:
        captions: File of captions, in the format of captions.json, in place of all others.
        val: Share of the photos that are held out, by a hash of the name; at least two where there are four.
        fit: Photos are stretched to a square, cropped to the square in their middle, or padded with grey bars.
    """

    classes = ()
    has_labels = False
    licence = "The images belong to their owners."
    readers = {"image": read_photo}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        val: Share = 0.1,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        flip: Share = 0.5,
        *,
        loader_config: LoaderConfig,
    ):
        super().__init__(root, loader_config)
        self.captions, self.val, self.fit, self.flip = captions, val, fit, flip
        self.is_named, self._photos = bool(root), None

    def index_split(self, split: str) -> DatasetIndex:
        """Return the photos of a split."""
        if not self.is_named:  # or the current directory would be searched
            raise DatasetMissing("data=folder needs data.root=DIR, the folder of the photos.")
        if self._photos is None:
            self._photos = PhotoFolder(self.root, user_path(self.captions) if self.captions else None)
        return self._photos.index(split == "val", self.val)

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write six photos and three whose names are held out, in two folders, with captions."""
        root, captions = Path(root), {}
        for i in (*range(6), 16, 37, 39):
            name, rng = f"{'ab'[i % 2]}/photo {i}.jpg", np.random.default_rng(i)
            save_image(root / name, np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((10, 10, 1))).astype(np.uint8))
            captions[name] = f"photo {i} of something"
        write_json(root / "captions.json", captions)
