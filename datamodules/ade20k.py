"""ADE20K scene parsing (Zhou et al. 2017): 20,210 + 2,000 photos, 150 classes, captions from a JSON file."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.interfaces import IGNORE
from lumen.core.registry import datamodules
from lumen.data.class_names import ADE20K
from lumen.data.datamodule import DataModule, Loading
from lumen.data.fake import write_json, write_pair
from lumen.data.index import Survey
from lumen.data.readers import PICTURES, label_map, lookup, picture

PARTS = {"train": "training", "val": "validation"}
CLASS_OF = {0: IGNORE} | {id: id - 1 for id in range(1, 151)}


@datamodules.register
class Ade20k(DataModule):
    """ADEChallengeData2016/{images,annotations}/{training,validation} and captions.json, {stem: caption}.

    `root` is that folder or the one that contains it. The PNG values are 1-150, and 0 for everything else.
    Not the full ADE20K, whose label maps are of another kind.
    """

    classes = ADE20K

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        fit: Literal["stretch", "crop"] = "stretch",
        flip: float = 0.5,
        *,
        loading: Loading,
    ):
        super().__init__(root, loading)
        self.captions, self.fit, self.flip = captions, fit, flip
        self.readers = {"image": picture, "mask": partial(label_map, table=lookup(CLASS_OF))}

    def survey(self, split: str) -> Survey:
        inner = self.root / "ADEChallengeData2016"
        survey = Survey(inner if inner.is_dir() else self.root)
        survey.add("image", PICTURES, f"images/{PARTS[split]}")
        survey.add("mask", (".png",), f"annotations/{PARTS[split]}")
        survey.caption(self.captions, "captions.json")
        return survey

    @staticmethod
    def fake(root: str | Path) -> None:
        root, said = Path(root) / "ADEChallengeData2016", {}
        for split, part, count in (("train", "training", 6), ("val", "validation", 3)):
            for i in range(1, count + 1):
                stem = f"ADE_{split}_{i:08}"
                image, mask = root / f"images/{part}/{stem}.jpg", root / f"annotations/{part}/{stem}.png"
                write_pair(image, mask, list(range(151)), (60 + i, 44 + 2 * i), i)
                said[stem] = f"picture {i} of a place"
        write_json(root / "captions.json", said)
