"""COCO-Stuff 164k (Caesar et al. 2018): 118,287 + 5,000 photos, 171 classes, five human captions each."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.class_names import COCO_STUFF
from lumen.data.copies import Files, copy_files
from lumen.data.fake import write_json, write_pair
from lumen.data.index import DatasetIndex, ImageRecord
from lumen.data.readers import IMAGE_SUFFIXES, consecutive_classes, lookup_table, read_image, read_label_map
from lumen.data.source import DataSource, LoaderConfig

# Ids of things that have a name but no annotations: there are 182 classes with them and 171 without.
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@datamodules.register
class CocoStuff(DataSource):
    """images/{train,val}2017, stuffthingmaps/{train,val}2017 and annotations/captions_{train,val}2017.json.

    Label maps may also be where mmsegmentation puts them, in annotations/{train,val}2017. `captions` names one other
    file for both splits, {stem: caption or captions} or COCO's own format. The PNG values are 0-181, and 255 for
    unlabelled pixels; labels=182 counts the 11 unused ids as classes.
    """

    licence = "COCO's annotations are CC BY 4.0; its photos belong to their Flickr users."
    published_images = {"train": 118_287, "val": 5_000}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        labels: Literal[171, 182] = 171,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        flip: Share = 0.5,
        *,
        loader_config: LoaderConfig,
    ):
        super().__init__(root, loader_config)
        self.captions, self.fit, self.flip = captions, fit, flip
        ids = [id for id in range(182) if labels == 182 or id not in UNUSED]
        self.classes = tuple(COCO_STUFF[id] for id in ids)
        table = lookup_table(consecutive_classes(ids))
        self.readers = {"image": read_image, "mask": partial(read_label_map, table=table)}

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split."""
        part = f"{split}2017"
        index = DatasetIndex(self.root)
        index.add_files("image", IMAGE_SUFFIXES, f"images/{part}", part)
        directories = (f"stuffthingmaps/{part}", f"annotations/{part}")
        # mmsegmentation writes its converted maps beside the official ones.
        index.add_files("mask", (".png",), *directories, exclude=("_labelTrainIds.png",))
        index.add_captions(self.captions, f"annotations/captions_{part}.json")
        return index

    def copy_files(self, record: ImageRecord, name: str, root: Path) -> Files:
        """Return the files of a copy of a training image; those of val2017 have captions of their own."""
        return copy_files(record, name, root, "annotations/captions_train2017.json")

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format."""
        root = Path(root)
        ids = [id for id in range(182) if id not in UNUSED] + [255]
        for part, first, count in (("train2017", 9, 6), ("val2017", 139, 3)):
            stems = [f"{first + i:012}" for i in range(count)]
            for i, stem in enumerate(stems):
                image, mask = root / f"images/{part}/{stem}.jpg", root / f"stuffthingmaps/{part}/{stem}.png"
                write_pair(image, mask, ids, (64 - i, 48 + i), first + i)
            write_json(root / f"annotations/captions_{part}.json", _official_captions(stems))


def _official_captions(stems: list[str]) -> dict:
    """Return two captions per image in COCO's format."""
    images = [{"id": int(stem), "file_name": f"{stem}.jpg"} for stem in stems]
    pairs = [(image["id"], f"a {n} picture of things and stuff") for image in images for n in ("first", "second")]
    annotations = [{"id": i, "image_id": image, "caption": caption} for i, (image, caption) in enumerate(pairs)]
    return {"images": images, "annotations": annotations}
