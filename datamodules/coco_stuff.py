"""COCO-Stuff 164k (Caesar et al. 2018): 118,287 + 5,000 photos, 171 classes, five human captions each."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.registry import datamodules
from lumen.data.class_names import COCO_STUFF
from lumen.data.datamodule import DataModule, Loading
from lumen.data.fake import write_json, write_pair
from lumen.data.index import Survey
from lumen.data.readers import PICTURES, consecutive, label_map, lookup, picture

# Thing ids that were given a name and never drawn: with them there are 182 classes, without them 171.
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@datamodules.register
class CocoStuff(DataModule):
    """images/{train,val}2017, stuffthingmaps/{train,val}2017 and annotations/captions_{train,val}2017.json.

    Also read where mmsegmentation puts them: label maps in annotations/{train,val}2017. `captions` names one
    other file for both splits, {stem: caption or captions} or COCO's own format. The PNG values are
    0-181, and 255 where nothing is labelled; `labels` says whether the 11 unused ids are counted.
    """

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        labels: Literal[171, 182] = 171,
        fit: Literal["stretch", "crop"] = "stretch",
        flip: float = 0.5,
        *,
        loading: Loading,
    ):
        super().__init__(root, loading)
        self.captions, self.fit, self.flip = captions, fit, flip
        ids = [id for id in range(182) if labels == 182 or id not in UNUSED]
        self.classes = tuple(COCO_STUFF[id] for id in ids)
        self.readers = {"image": picture, "mask": partial(label_map, table=lookup(consecutive(ids)))}

    def survey(self, split: str) -> Survey:
        part = f"{split}2017"
        survey = Survey(self.root)
        survey.add("image", PICTURES, f"images/{part}", part)
        survey.add("mask", (".png",), f"stuffthingmaps/{part}", f"annotations/{part}")
        # mmsegmentation writes its converted maps beside the official ones.
        for stem in [s for s in survey.files.get("mask", {}) if s.endswith("_labelTrainIds")]:
            del survey.files["mask"][stem]
        survey.caption(self.captions, f"annotations/captions_{part}.json")
        return survey

    @staticmethod
    def fake(root: str | Path) -> None:
        root = Path(root)
        ids = [id for id in range(182) if id not in UNUSED] + [255]
        for part, first, count in (("train2017", 9, 6), ("val2017", 139, 3)):
            stems = [f"{first + i:012}" for i in range(count)]
            for i, stem in enumerate(stems):
                image, mask = root / f"images/{part}/{stem}.jpg", root / f"stuffthingmaps/{part}/{stem}.png"
                write_pair(image, mask, ids, (64 - i, 48 + i), first + i)
            write_json(root / f"annotations/captions_{part}.json", _official(stems))


def _official(stems: list[str]) -> dict:
    """Two captions per image as COCO writes them."""
    images = [{"id": int(stem), "file_name": f"{stem}.jpg"} for stem in stems]
    said = [(image["id"], f"a {n} picture of things and stuff") for image in images for n in ("first", "second")]
    return {
        "images": images,
        "annotations": [{"id": i, "image_id": image, "caption": caption} for i, (image, caption) in enumerate(said)],
    }
