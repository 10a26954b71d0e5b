"""BDD100K's segmentation set (Yu et al. 2020): 7,000 + 1,000 dashboard frames, Cityscapes' 19 classes."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.labels import IGNORE
from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.class_names import CITYSCAPES
from lumen.data.copies import Files
from lumen.data.fake import write_json, write_pair
from lumen.data.index import DatasetIndex, ImageRecord
from lumen.data.readers import consecutive_classes, lookup_table, read_image, read_label_map
from lumen.data.source import DataSource, LoaderConfig


@datamodules.register
class Bdd100k(DataSource):
    """images/10k/{train,val}, labels/sem_seg/masks/{train,val} and captions.json, {stem: caption}.

    `root` is the directory bdd100k, into which the archives "10K Images" and "Segmentation" unpack, or the one that
    contains it. The PNG values are Cityscapes' train ids 0-18, and 255 for unlabelled pixels. In archives from before
    June 2021, six images and six maps do not match (bdd100k issue 103); `lumen data check` names them.

    An image is resized to the height `size`, in proportion. Training uses a random square of it, evaluation the
    central square.

    Args:
        fit: stretch or pad: whole images made square, in place of random crops.

    Source: doc.bdd100k.com, download and format.
    """

    classes = tuple(CITYSCAPES.values())
    random_crop = True
    licence = "BDD100K is for education, research and not-for-profit purposes."
    published_images = {"train": 7_000, "val": 1_000}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        flip: Share = 0.5,
        fit: Literal["stretch", "crop", "pad"] | None = None,
        *,
        loader_config: LoaderConfig,
    ):
        super().__init__(root, loader_config)
        self.captions, self.flip = captions, flip
        self.use_fit(fit)
        table = lookup_table(consecutive_classes(list(range(len(self.classes)))))
        self.readers = {"image": read_image, "mask": partial(read_label_map, table=table)}

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split."""
        inner = self.root / "bdd100k"
        index = DatasetIndex(inner if inner.is_dir() else self.root)
        index.add_files("image", (".jpg",), f"images/10k/{split}")
        index.add_files("mask", (".png",), f"labels/sem_seg/masks/{split}")
        index.add_captions(self.captions, "captions.json")
        return index

    def copy_files(self, record: ImageRecord, name: str, root: Path) -> Files:
        """Return the files of a copy of an image, which is JPEG as all images of this data set."""
        files = super().copy_files(record, name, root)
        return files | {"image": (files["image"][0].with_suffix(".jpg"), b"")}

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format."""
        root, captions = Path(root) / "bdd100k", {}
        for split, first, count in (("train", 0x0A0A0B33, 6), ("val", 0x7D06FEFC, 3)):
            for i in range(count):
                stem = f"{first + i:08x}-{i:08x}"
                image, mask = root / f"images/10k/{split}/{stem}.jpg", root / f"labels/sem_seg/masks/{split}/{stem}.png"
                write_pair(image, mask, [*range(len(CITYSCAPES)), IGNORE], (96, 54), i)
                captions[stem] = f"a road from the dashboard, frame {i}"
        write_json(root / "captions.json", captions)
