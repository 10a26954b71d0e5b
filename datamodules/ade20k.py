"""ADE20K scene parsing (Zhou et al. 2017): 20,210 + 2,000 photos, 150 classes, captions from a JSON file."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.labels import IGNORE
from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.class_names import ADE20K
from lumen.data.fake import write_json, write_pair
from lumen.data.index import DatasetIndex
from lumen.data.readers import IMAGE_SUFFIXES, lookup_table, read_image, read_label_map
from lumen.data.source import DataSource, LoaderConfig

DIRECTORIES = {"train": "training", "val": "validation"}
CLASS_OF_ID = {0: IGNORE} | {id: id - 1 for id in range(1, 151)}


@datamodules.register
class Ade20k(DataSource):
    """ADEChallengeData2016/{images,annotations}/{training,validation} and captions.json, {stem: caption}.

    `root` is that directory or the one that contains it. The PNG values are 1-150 for classes and 0 for all else.
    The full ADE20K is another data set, with label maps of another kind.
    """

    classes = ADE20K
    licence = "ADE20K is for non-commercial research; what is derived from it may not be passed on."
    published_images = {"train": 20_210, "val": 2_000}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        flip: Share = 0.5,
        *,
        loader_config: LoaderConfig,
    ):
        super().__init__(root, loader_config)
        self.captions, self.fit, self.flip = captions, fit, flip
        self.readers = {"image": read_image, "mask": partial(read_label_map, table=lookup_table(CLASS_OF_ID))}

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split."""
        inner = self.root / "ADEChallengeData2016"
        index = DatasetIndex(inner if inner.is_dir() else self.root)
        index.add_files("image", IMAGE_SUFFIXES, f"images/{DIRECTORIES[split]}")
        index.add_files("mask", (".png",), f"annotations/{DIRECTORIES[split]}")
        index.add_captions(self.captions, "captions.json")
        return index

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format."""
        root, captions = Path(root) / "ADEChallengeData2016", {}
        for split, directory, count in (("train", "training", 6), ("val", "validation", 3)):
            for i in range(1, count + 1):
                stem = f"ADE_{split}_{i:08}"
                image, mask = root / f"images/{directory}/{stem}.jpg", root / f"annotations/{directory}/{stem}.png"
                write_pair(image, mask, list(range(151)), (60 + i, 44 + 2 * i), i)
                captions[stem] = f"picture {i} of a place"
        write_json(root / "captions.json", captions)
